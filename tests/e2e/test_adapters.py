"""Adapters on the real server: named at start and loaded at run time, in the answers and after the engine's death."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..adapter_files import DEFAULT_MODEL_LINEARS, write_adapter
from .serving import PATIENCE_S, SMALL, Serving, post, serving

NEW_TOKENS = 40
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(root / name, DEFAULT_MODEL_LINEARS, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def server(directories: dict[str, Path]) -> Iterator[Serving]:
    with serving(*SMALL, "--lora-adapters", f"one={directories['one']}", "--max-loras", "2") as server:
        server.wait_ready()
        yield server


def generate(server: Serving, adapter: str | None) -> str:
    parameters = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True, "adapter_id": adapter}
    with post(f"{server.url}/generate", {"inputs": PROMPT, "parameters": parameters}) as response:
        return json.load(response)["generated_text"]


def complete(server: Serving, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": NEW_TOKENS, "ignore_eos": True, "temperature": 0}
    with post(f"{server.url}/v1/completions", body) as response:
        return json.load(response)["choices"][0]["text"]


def ask(server: Serving, path: str, **body: str) -> tuple[int, Any]:
    try:
        with post(f"{server.url}{path}", body) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


def models(server: Serving) -> list[str]:
    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=PATIENCE_S) as response:
        return [model["id"] for model in json.load(response)["data"]]


def engine_pid(server: Serving) -> int:
    with urllib.request.urlopen(f"{server.url}/health/live", timeout=PATIENCE_S) as response:
        return int(json.load(response)["engine"]["process"]["pid"])


def test_adapters_come_go_and_outlive_the_engine(server: Serving, directories: dict[str, Path]) -> None:
    plain, one = generate(server, None), generate(server, "one")
    assert plain != one
    assert (complete(server, "unknown"), complete(server, "one")) == (plain, one)
    assert models(server)[1:] == ["one"]

    path = str(directories["two"])
    assert ask(server, "/v1/load_lora_adapter", lora_name="two", lora_path=path)[0] == 200
    assert models(server)[1:] == ["one", "two"]
    status, message = ask(server, "/v1/load_lora_adapter", lora_name="three", lora_path=path)
    assert (status, message) == (400, "2 adapters are loaded, which is the most (--max-loras)")
    two = generate(server, "two")
    assert two not in (plain, one)

    # All three in one batch, and the engine killed on the way: what was loaded at run time is there again.
    with ThreadPoolExecutor(3) as pool:
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": NEW_TOKENS, "ignore_eos": True, "adapter_id": "two"}}
        with post(f"{server.url}/generate_stream", body) as stream:
            others = [pool.submit(generate, server, name) for name in (None, "one")]
            stream.readline()
            os.kill(engine_pid(server), signal.SIGKILL)
            last = [line for line in stream if line.startswith(b"data:")][-1]
        assert json.loads(last.removeprefix(b"data:"))["generated_text"] == two
        assert [other.result() for other in others] == [plain, one]
    assert "the engine died" in server.output

    assert ask(server, "/v1/unload_lora_adapter", lora_name="two")[0] == 200
    assert models(server)[1:] == ["one"]
    assert ask(server, "/v1/unload_lora_adapter", lora_name="two") == (404, "adapter 'two' is not loaded")
    assert ask(server, "/v1/load_lora_adapter", lora_name="three", lora_path=path)[0] == 200
    assert generate(server, "three") == two
