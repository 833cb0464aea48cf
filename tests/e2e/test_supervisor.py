"""Starts and ends of the real server. Every test checks that nothing stays behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import HTTPError

import pytest

from headwater.engine.checkpoint.resolve import resolve_model

from .serving import HEADWATER, SMALL, Serving, descendants, post, running, serving, status_of, title, wait_until

LONG = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 900}}


@pytest.fixture
def temporary(tmp_path: Path) -> dict[str, str]:
    """Environment that puts the sockets where the test can see them."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture
def server(temporary: dict[str, str]) -> Iterator[Serving]:
    with serving(*SMALL, environment=temporary) as server:
        server.wait_ready()
        yield server


def assert_all_gone(pids: dict[int, str], temporary: dict[str, str]) -> None:
    wait_until(lambda: not any(map(running, pids)), f"the end of {pids}")
    assert list(Path(temporary["TMPDIR"]).glob("headwater-*")) == []


def find(pids: dict[int, str], name: str) -> int:
    (pid,) = (pid for pid, title in pids.items() if title == name)
    return pid


def test_an_engine_that_keeps_dying_ends_the_program(temporary: dict[str, str]) -> None:
    with serving(*SMALL, "--max-engine-restarts", "0", environment=temporary) as server:
        server.wait_ready()
        pids = descendants(server.process.pid)
        os.kill(find(pids, "headwater engine 0"), signal.SIGKILL)
        assert server.wait_end() == 1
        assert_all_gone(pids, temporary)
    assert "the engine died 1 times in 60 s; stopping" in server.output


@pytest.mark.parametrize("share", [False, True])
def test_a_port_in_use_is_told(share: bool) -> None:
    with socket.socket() as other:
        if share:  # then Granian would start beside it without a word
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        ended = subprocess.run([*HEADWATER, "--port", port], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr == f"headwater: error: port {port} of 127.0.0.1 is in use; choose another with --port\n"


def test_a_model_that_the_engine_refuses_ends_the_program(tmp_path: Path, temporary: dict[str, str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }
    (model / "config.json").write_text(json.dumps(config))
    shutil.copyfile(resolve_model(None).directory / "tokenizer.json", model / "tokenizer.json")
    (model / "model.safetensors").write_bytes(b"cut")
    with serving(str(model), environment=temporary) as server:
        assert server.wait_end() == 1
    assert_one_line(server, f"{model}/model.safetensors: no safetensors file can be read")
    assert_all_gone({}, temporary)


def assert_one_line(server: Serving, reason: str) -> None:
    """After what is loaded from where, and by what, one line says why it is not."""
    loading, *kernels, error = server.output.splitlines()
    assert ": loading " in loading
    assert all(": cpu kernels: " in line for line in kernels)
    assert error.startswith(f"headwater: error: {reason}")


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    """The default model in a directory of its own, whose files may be changed."""
    source, model = resolve_model(None).directory, tmp_path / "copy"
    model.mkdir()
    for file in source.iterdir():
        if file.name == "model.safetensors":
            (model / file.name).symlink_to(file)
        else:
            shutil.copyfile(file, model / file.name)
    return model


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("tokenizer_config.json", "{", "this is no JSON that can be used: Expecting property name"),
        ("generation_config.json", "[1, 2", "this is no JSON that can be used: Expecting ',' delimiter"),
        ("tokenizer.json", "{}", "not a tokenizer: "),
    ],
)
def test_a_broken_file_of_the_model_is_one_line(
    copied_model: Path, temporary: dict[str, str], name: str, text: str, reason: str
) -> None:
    (copied_model / name).write_text(text)
    with serving(str(copied_model), environment=temporary) as server:
        assert server.wait_end() == 1
    assert_one_line(server, f"{copied_model / name}: {reason}")


def test_a_broken_chat_template_costs_conversations_only(copied_model: Path, temporary: dict[str, str]) -> None:
    path = copied_model / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": "{% for %}"}
    path.write_text("\ufeff" + json.dumps(config))  # and a byte order mark, which costs nothing
    with serving(str(copied_model), *SMALL, environment=temporary) as server:
        server.wait_ready()
        reason = "tokenizer_config.json: not a chat template: "
        assert server.output.count(f": conversations are refused: {reason}") == 1
        with pytest.raises(HTTPError) as refused:
            post(f"{server.url}/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
        assert refused.value.code == 422
        assert json.loads(refused.value.read())["error"]["message"].startswith(f"Template error: {reason}")
        answer = post(f"{server.url}/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 2}})
        assert answer.status == 200


def test_sigint_while_loading(temporary: dict[str, str]) -> None:
    with serving(*SMALL, environment=temporary) as server:
        wait_until(lambda: len(descendants(server.process.pid)) >= 2, "two children")
        pids = descendants(server.process.pid)
        assert server.stop(signal.SIGINT) == 0
        assert "is ready" not in server.output
        assert_all_gone(pids, temporary)


def test_running_responses_finish_after_sigterm(server: Serving, temporary: dict[str, str]) -> None:
    pids = descendants(server.process.pid)
    assert title(server.process.pid) == "headwater serve"
    assert sorted(pids.values()) == ["headwater api", "headwater api 0", "headwater engine 0"]
    parameters = {"max_new_tokens": 60, "stop": ["no such text"]}
    with post(f"{server.url}/generate_stream", {"inputs": "Once upon a time", "parameters": parameters}) as stream:
        events = [stream.readline()]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: status_of(f"{server.url}/health") == 0, "a closed port")
        events += [line for line in stream if line.startswith(b"data:")]
    assert json.loads(events[-1].removeprefix(b"data:"))["generated_text"]
    assert server.wait_end() == 0
    assert_all_gone(pids, temporary)


def test_a_second_signal_ends_at_once(server: Serving, temporary: dict[str, str]) -> None:
    pids = descendants(server.process.pid)
    with post(f"{server.url}/generate_stream", LONG) as stream:
        stream.readline()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("a second signal ends them")
        server.process.send_signal(signal.SIGINT)
        with pytest.raises((IncompleteRead, ConnectionResetError)):
            stream.read()
    assert server.wait_end() == 1
    assert_all_gone(pids, temporary)


def test_an_engine_that_dies_is_started_again_and_no_child_outlives_the_supervisor(
    server: Serving, temporary: dict[str, str]
) -> None:
    before = descendants(server.process.pid)
    os.kill(find(before, "headwater engine 0"), signal.SIGKILL)
    server.wait_for(r"the engine died \(SIGKILL\); starting it again, 1 of 5")
    wait_until(lambda: status_of(f"{server.url}/health") == 200, "a healthy engine")
    with post(f"{server.url}/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 2}}) as response:
        assert json.load(response)["generated_text"]

    after = descendants(server.process.pid)
    assert find(after, "headwater engine 0") not in before
    assert find(after, "headwater api 0") in before
    server.process.kill()
    assert_all_gone(after, temporary)
    assert status_of(f"{server.url}/health") == 0


def test_an_http_server_that_dies_ends_the_program(temporary: dict[str, str]) -> None:
    with serving(*SMALL, "--json-output", environment=temporary) as server:
        server.wait_ready()
        pids = descendants(server.process.pid)
        os.kill(find(pids, "headwater api"), signal.SIGKILL)
        assert server.wait_end() == 1
        assert_all_gone(pids, temporary)
    logged = [json.loads(line) for line in server.output.splitlines()]
    assert ("ERROR", "the HTTP server ended (SIGKILL); stopping") in {
        (line["level"], line["message"]) for line in logged
    }
