"""The supervisor's decisions, with small children in place of the engine and the HTTP server: those take seconds to
start, and die on command less readily. The real ones are in tests/e2e/test_supervisor.py."""

import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from headwater.api.config import ApiConfig
from headwater.api.launch.addresses import StartError, probe_port, reachable_host, socket_dir
from headwater.api.launch.child import describe_exit
from headwater.api.launch.supervisor import Supervisor
from headwater.engine.config import EngineConfig

# Each child notes its start in a file, reads its settings as the real ones do, and then follows its script.
PREAMBLE = """
import os, signal, sys, threading, time
from pathlib import Path
from headwater.api.config import ApiConfig
from headwater.engine.config import EngineConfig, decode_config
folder = Path(__file__).parent
with open(__file__ + ".starts", "a") as starts:
    starts.write("x")
config = decode_config(sys.stdin.buffer.readline(), {config})
def wait():  # for the end of standard input
    sys.stdin.buffer.read()
    Path(__file__ + ".hung_up").touch()
"""
HEALTHY = """
import http.server, threading
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        (folder / "ready").touch()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer((config.host, config.port), Health)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
# A loop that goes round, as an engine's does that listens.
TURNS = """
from headwater.engine.flight_recorder import FlightRecorder, flight_path
recorder = FlightRecorder(flight_path(config.socket))
threading.Thread(target=lambda: [(recorder.beat(), time.sleep(0.05)) for _ in iter(int, 1)], daemon=True).start()
"""
UNTIL_READY = """
while not (folder / "ready").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a supervisor over two scripts; returns its exit code."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("headwater.api.launch.engine_process.ENGINE_MODULE", "fake_engine")
    monkeypatch.setattr("headwater.api.launch.supervisor.API_MODULE", "fake_api")

    def run(engine: str, api: str, **settings: Any) -> int:
        (tmp_path / "fake_engine.py").write_text(PREAMBLE.format(config="EngineConfig") + engine)
        (tmp_path / "fake_api.py").write_text(PREAMBLE.format(config="ApiConfig") + api)
        unused = tmp_path / "socket"
        engine_config = EngineConfig(model_dir=tmp_path, model_id="m", socket=unused)
        port = probe_port("127.0.0.1", 0)
        api_config = ApiConfig(model_dir=tmp_path, model_id="m", port=port, engine_socket=unused, **settings)
        return Supervisor(engine_config, api_config, time.monotonic()).run()

    return run


def starts(tmp_path: Path, module: str) -> int:
    return len((tmp_path / f"{module}.py.starts").read_text())


@pytest.mark.parametrize(("engine", "api"), [("sys.exit(2)", "wait()"), ("wait()", "sys.exit(2)")])
def test_a_child_that_has_said_why_it_ends_is_not_talked_about(
    run, caplog: pytest.LogCaptureFixture, engine: str, api: str
) -> None:
    assert run(engine, api) == 1
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(7)", 7), ("sys.exit(0)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_an_engine_that_never_was_ready_is_not_started_again(run, tmp_path: Path, end: str, code: int) -> None:
    assert run(end, "wait()") == code
    assert starts(tmp_path, "fake_engine") == 1


def test_an_engine_that_keeps_dying_is_given_up(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(UNTIL_READY + "sys.exit(3)", HEALTHY + "wait()") == 1
    assert starts(tmp_path, "fake_engine") == 1 + 5
    assert starts(tmp_path, "fake_api") == 1
    assert "the engine died (exit code 3); starting it again, 5 of 5" in caplog.text
    assert "the engine died 6 times in 60 s; stopping" in caplog.text


def configs(tmp_path: Path) -> list[Any]:
    """What each engine was told."""
    return [json.loads(line) for line in (tmp_path / "configs").read_text().splitlines()]


NOTE_CONFIG = """
import msgspec
with open(folder / "configs", "ab") as configs:
    configs.write(msgspec.json.encode(config, enc_hook=str) + b"\\n")
"""
END_AT_THE_THIRD = """
if len(Path(__file__ + ".starts").read_text()) == 3:
    os.kill(os.getppid(), signal.SIGTERM)
    wait()
    os._exit(0)
"""


# The kernel counts one more.
OUT_OF_MEMORY = """
path = Path(__file__).parent / "vmstat"
path.write_text(path.read_text().replace("oom_kill 4", "oom_kill 45"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("end", "why", "cause", "vmstat"),
    [
        ("os._exit(3)", "exit code 3", "crashed", "oom_kill 4"),
        ("os.abort()", "SIGABRT", "crashed", "oom_kill 4"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", None, "oom_kill 4"),
        (OUT_OF_MEMORY, "SIGKILL", "killed", "nr_free_pages 1\noom_kill 4"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", "killed", "nr_free_pages 1"),  # it doesn't say
        ("os._exit(0)", "exit code 0", None, "oom_kill 4"),  # as after SIGTERM
        ("signal.pause()", "no sign of life for", "crashed", "oom_kill 4"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "no sign of life for", "crashed", "oom_kill 4"),
    ],
)
def test_an_engine_that_dies_or_hangs_is_replaced_by_one_that_knows(
    run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, end: str, why: str,
    cause: str | None, vmstat: str,
) -> None:  # fmt: skip
    (tmp_path / "vmstat").write_text(vmstat)
    monkeypatch.setattr("headwater.api.launch.engine_process.VMSTAT", tmp_path / "vmstat")
    monkeypatch.setattr("headwater.api.launch.supervisor.WATCH_INTERVAL_S", 0.05)
    # An engine notes its pid in the record; its last turn was when it made it.
    stands_still = TURNS.rpartition("threading.Thread")[0]
    engine = NOTE_CONFIG + END_AT_THE_THIRD + UNTIL_READY + stands_still + end
    assert run(engine, HEALTHY + "wait()", heartbeat_timeout=0.3) == 0
    errors = caplog.text
    assert f"the engine died ({why}" in errors
    assert "starting it again, 2 of 5" in errors
    first, second, third = configs(tmp_path)
    for name in ("crashed", "killed"):
        assert first[name] == []
        assert [len(config[name]) for config in (second, third)] == ([1, 2] if name == cause else [0, 0])


def test_an_engine_whose_loop_goes_round_is_left_alone(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.api.launch.supervisor.WATCH_INTERVAL_S", 0.05)
    # It ends the program itself, after several times the limit.
    engine = TURNS + UNTIL_READY + "time.sleep(1.0)\nos.kill(os.getppid(), signal.SIGTERM)\nwait()"
    assert run(engine, HEALTHY + "wait()", heartbeat_timeout=0.3) == 0
    assert starts(tmp_path, "fake_engine") == 1


def test_an_engine_that_does_not_come_back_is_started_again(
    run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.api.launch.supervisor.WATCH_INTERVAL_S", 0.05)
    monkeypatch.setattr("headwater.api.launch.engine_process.MIN_RESTART_S", 1.0)
    monkeypatch.setattr("headwater.api.launch.engine_process.RESTART_FACTOR", 0.0)
    first_dies = 'if Path(__file__ + ".starts").read_text() == "x":\n    os._exit(3)\n'
    engine = UNTIL_READY + first_dies + END_AT_THE_THIRD + "wait()"
    assert run(engine, HEALTHY + "wait()") == 0
    assert "the engine died (it does not start); starting it again, 2 of 5" in caplog.text


@pytest.mark.parametrize("when", ["", HEALTHY + UNTIL_READY])
def test_an_http_server_that_ends_ends_the_program(run, tmp_path: Path, when: str) -> None:
    """Before it was ready and after; the engine notices the end of its standard input."""
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    assert run(f"{ignore}wait()", f"{when}\n(folder / 'up').touch()\nos._exit(0)") == 1
    assert starts(tmp_path, "fake_api") == 1


def test_the_order_of_a_stop(run, tmp_path: Path) -> None:
    """SIGTERM to the supervisor: the HTTP server first, the engine when that has ended."""
    engine = """
def end(*_):
    (folder / "order").open("a").write("engine ")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
wait()
"""
    api = (
        HEALTHY
        + UNTIL_READY
        + """
def end(*_):
    time.sleep(0.3)  # its last response
    (folder / "order").open("a").write("api ")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
while "x" not in (folder / "fake_engine.py.starts").read_text():
    time.sleep(0.01)
os.kill(os.getppid(), signal.SIGTERM)
wait()
"""
    )
    assert run(engine, api) == 0
    assert (tmp_path / "order").read_text() == "api engine "


def test_children_that_ignore_everything_are_killed(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.api.launch.supervisor.ENGINE_STOP_S", 0.1)
    monkeypatch.setattr("headwater.api.launch.supervisor.UNREADY_STOP_S", 0.1)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    api = deaf + "os.kill(os.getppid(), signal.SIGTERM)\nwhile True: time.sleep(1)\n"
    assert run(deaf + "while True: time.sleep(1)\n", api) == 0


def test_exit_codes_in_words() -> None:
    assert describe_exit(137) == "SIGKILL"
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(255) == "exit code 255"


def test_where_a_server_answers() -> None:
    addresses = ["127.0.0.1", "0.0.0.0", "::", "192.0.2.1", "localhost"]
    assert [reachable_host(address) for address in addresses] == [
        "127.0.0.1", "127.0.0.1", "::1", "192.0.2.1", "localhost",
    ]  # fmt: skip


def test_a_port_that_was_just_in_use_is_free() -> None:
    """Connections in TIME_WAIT do not count."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
        with pytest.raises(StartError, match=f"port {port} of 127.0.0.1 is in use"):
            probe_port("127.0.0.1", port)
    assert probe_port("127.0.0.1", port) == port


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_that_is_not_ours_is_told(host: str) -> None:
    with pytest.raises(StartError, match=f"cannot listen on port 8080 of {host}"):
        probe_port(host, 8080)


@pytest.mark.parametrize("name", ["short", "long" * 30])
def test_sockets_lie_in_a_private_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    with socket_dir() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(directory / "engine-0.sock"))  # fails where the path is too long
    assert not directory.exists()
