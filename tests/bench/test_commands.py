"""The commands as a user types them, against servers that compute nothing or do wrong."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from headwater.bench.cli import app
from headwater.bench.load.null_server import null_server
from headwater.engine.checkpoint.resolve import resolve_model

from .load.misbehaving import END, STREAM, chunk, nobody, read_request, send, server, tgi_stream

HEADWATER = str(Path(sys.executable).with_name("headwater"))
QUICK = ("--no-client-check", "--warmup", "0", "--input-tokens", "8", "--output-tokens", "4")


def bench(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEADWATER, "bench", *arguments],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | (environment or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with null_server(pace_ms=2) as address:
        yield address


class Page(HTMLParser):
    """Collects what a page would fetch, and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or "" for name, value in attrs
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:"))
        ]  # fmt: skip


def test_serve_writes_every_form(url, tmp_path):
    files = [tmp_path / f"report.{kind}" for kind in ("json", "html", "svg")]
    options = [f"--{file.suffix[1:]}={file}" for file in files]
    done = bench(
        "serve", url, "-c", "1,3", "-n", "6", *QUICK, *options, "--slo", "ttft:60000,itl:0.001", "--detailed",
        "--header", "Authorization: Bearer secret",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| 3 at a time |" in done.stdout
    assert "3 at a time: 6/6 requests" in done.stderr  # piped: plain lines

    report = json.loads(files[0].read_text())
    assert (report["version"], report["kind"]) == (1, "serve")
    assert report["command"].startswith("headwater bench serve ")
    assert report["hardware"]["cores"] >= 1
    assert report["servers"][0]["model_id"] == "null"
    assert [run["max_concurrency"] for run in report["runs"]] == [1, 3]
    for run in report["runs"]:
        assert (run["completed"], run["failed"], run["errors_by_kind"]) == (6, 0, {})
        assert (run["total_input_tokens"], run["total_output_tokens"], run["total_events"]) == (48, 24, 24)
        assert run["output_throughput"] == pytest.approx(24 / run["duration"])
        assert run["request_goodput"] == 0.0
        assert (run["input_lens"], run["output_lens"]) == ([8] * 6, [4] * 6)
        assert [len(gaps) for gaps in run["itls"]] == [3] * 6
        for metric in ("ttft", "tpot", "itl", "e2el"):
            spread = [run[f"{each}_{metric}_ms"] for each in ("p50", "p90", "p95", "p99")]
            assert spread == sorted(spread)
            assert run[f"median_{metric}_ms"] == spread[0]

    page = Page(files[1].read_text())
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3
    image = ElementTree.parse(files[2]).getroot()
    assert len(image.findall("{http://www.w3.org/2000/svg}svg")) == 3
    assert not any(b"secret" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    "options",
    [
        ("-p", "openai", "-r", "200,inf", "--arrivals", "constant"),
        ("-p", "openai-chat", "-w", "chat", "--turns", "2", "-c", "2"),
        ("-w", "shared-prefix", "--prefix-tokens", "20", "-r", "200", "--seed", "3"),
        ("-c", "2", "--duration", "0.1"),
    ],
    ids=" ".join,
)
def test_serve_in_its_other_ways(url, tmp_path, options):
    file = tmp_path / "report.json"
    done = bench("serve", url, "-n", "8", *QUICK, *options, "--json", str(file))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    for run in report["runs"]:
        assert run["other_length"] == run["failed"] == 0
        assert run["completed"] == 8 or "--duration" in options
    if "chat" in options:  # the second turn carries the first one and its answer
        (run,) = report["runs"]
        assert run["total_input_tokens"] == 4 * (8 + (8 + 4 + 8))
    if "200,inf" in options:
        assert [run["request_rate"] for run in report["runs"]] == [200, "inf"]


def test_compare_asks_all_the_same_in_turn(url, tmp_path):
    files = [tmp_path / f"report.{kind}" for kind in ("json", "html", "svg")]
    options = [f"--{file.suffix[1:]}={file}" for file in files]
    with null_server(pace_ms=20) as slow:
        done = bench("compare", url, f"openai+{slow}", "-c", "2", "-n", "2", "--rounds", "3", *QUICK, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(files[0].read_text())
    assert [run["url"] for run in report["runs"]] == [url, slow, slow, url, url, slow]
    ratios = report["ratios_to_first"]["B / A"]
    assert [len(values) for values in ratios.values()] == [3] * 5
    assert min(ratios["median ITL"]) > 1
    assert "B / A" in done.stdout
    assert Page(files[1].read_text()).tags.count("svg") == 2


def test_sweep_stops_where_the_server_gives_no_more(tmp_path):
    file = tmp_path / "report.json"
    with server(send(STREAM, chunk(tgi_stream(4)), END)) as url:
        done = bench("sweep", url, "--most", "4", "-n", "4", *QUICK, "--json", str(file))
        by_rate = bench("sweep", url, "--over", "rate", "--steps", "2", "-n", "4", *QUICK)
    assert done.returncode == 0, done.stderr
    runs = json.loads(file.read_text())["runs"]
    assert [run["max_concurrency"] for run in runs] == [1, 2, 4][: len(runs)]
    assert "| saturated at " in done.stdout
    assert by_rate.returncode == 0, by_rate.stderr
    assert "inf per second" in by_rate.stdout


def test_failures_are_counted_and_set_the_exit_code(tmp_path):
    file = tmp_path / "report.json"
    answers = iter([send(b"HTTP/1.1 429 -\r\ncontent-length: 0\r\n\r\n"), send(STREAM)])
    right = send(STREAM, chunk(tgi_stream(4)), END)
    with server(lambda connection: next(answers, right)(connection)) as url:
        done = bench(
            "serve",
            url,
            "-c",
            "1",
            "-n",
            "5",
            *QUICK,
            "--tokenizer",
            str(resolve_model(None).directory),
            "--json",
            str(file),
        )
    assert done.returncode == 1
    assert "| overloaded |" in done.stdout
    (run,) = json.loads(file.read_text())["runs"]
    assert (run["completed"], run["failed"], run["overloaded"]) == (3, 2, 1)
    assert run["errors_by_kind"] == {"overloaded": 1, "cut": 1}


def test_nobody_there():
    with nobody() as url:
        done = bench("serve", url, "-c", "2", "-n", "4", *QUICK)
        allowed = bench("serve", url, "-c", "2", "-n", "4", *QUICK, "--allow-errors")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert allowed.returncode == 0


def test_other_lengths_are_told():
    with server(send(STREAM, chunk(tgi_stream(3)), END)) as url:
        done = bench("serve", url, "-c", "1", "-n", "2", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 answers have another length than asked for: the server doesn't heed ignore_eos" in done.stdout


def test_ctrl_c_leaves_what_was_measured(tmp_path):
    file = tmp_path / "report.json"
    reading, writing = os.pipe()
    right = iter([send(STREAM, chunk(tgi_stream(4)), END)] * 5)  # two requests calibrate, three are measured

    def respond(connection) -> None:
        if answer := next(right, None):
            answer(connection)
        else:
            connection.sendall(STREAM)
            os.write(writing, b"x")
            read_request(connection)  # until the client goes

    with server(respond) as url:
        process = subprocess.Popen(
            [HEADWATER, "bench", "serve", url, "-c", "1,2", "-n", "9", *QUICK, "--json", str(file)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.read(reading, 1)  # the server holds a request
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    os.close(reading)
    os.close(writing)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Interrupted" in output
    report = json.loads(file.read_text())
    assert report["interrupted"]
    (run,) = report["runs"]  # the second one did not begin
    assert (run["completed"], run["failed"], run["cancelled"], run["total_output_tokens"]) == (3, 0, 1, 12)


def test_a_terminal_gets_a_live_line(url):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [HEADWATER, "bench", "serve", url, "-c", "2", "-n", "4", *QUICK],
        stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: nobody holds the other end any more
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"4/4" in shown
    assert b"\x1b[" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "localhost:8080"), "a URL is"),
        (("serve", "http://x", "-c", "1", "-r", "1"), "not both"),
        (("serve", "http://x", "-c", "0"), "positive numbers"),
        (("serve", "http://x", "-r", "fast"), "could not convert"),
        (("serve", "http://x", "--input-tokens", "long"), "lengths are"),
        (("serve", "http://x", "--slo", "ttft"), "objectives are"),
        (("serve", "http://x", "--header", "novalue"), "Name: value"),
        (("serve", "http://x", "--extra-body", "[]"), "--extra-body"),
        (("serve", "http://x", "--tokenizer", "nowhere"), "no such file"),
        (("serve", "http://x", "-p", "grpc"), "grpc"),
        (("compare", "http://x"), "two servers"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_bench_commands_do_not_import_torch(url):
    program = """
import sys
from headwater.engine.install_hints import install_extra
from headwater.api.cli import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    print("code", ended.code, "torch" in sys.modules, "numba" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "bench", "serve", url, "-c", "1", "-n", "1", *QUICK],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "code 0 False False"


def test_null_server_says_where_it_is_and_ends():
    # A shell that runs the tests in the background makes its children deaf to Ctrl-C.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([HEADWATER, "bench", "null-server"], stdout=subprocess.PIPE, text=True, preexec_fn=hear)
    assert process.stdout is not None
    with process.stdout:
        address = process.stdout.readline().split()[-1]
        done = bench("serve", address, "-c", "1", "-n", "1", *QUICK)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert done.returncode == 0, done.stderr
