"""Requests name an adapter, and others load and unload one: what reaches the engine, and what becomes of its answer."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headwater.engine.messages import Adapter, AdapterAnswer, AdapterList, LoadAdapter, UnloadAdapter

from ..conftest import ApiServer, run_api_server, wait_until

SQL = Adapter("sql", "/data/sql")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    with run_api_server(tmp_path_factory.mktemp("api"), model_dir) as server:
        server.peer.tell(AdapterList((SQL,), 8))
        wait_until(lambda: len(models(server)) == 2, "the worker knows of the adapter")
        yield server


def models(server: ApiServer) -> list[dict[str, Any]]:
    return json.loads(server.request("GET", "/v1/models")[1])["data"]


def test_requests_name_an_adapter(server: ApiServer) -> None:
    prompt = {"prompt": "a", "max_tokens": 2}
    bodies: list[tuple[str, dict[str, Any], str | None]] = [
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": "sql"}}, "sql"),
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": None}}, None),
        ("/generate", {"inputs": "a", "parameters": {"adapter_id": ""}}, None),
        ("/v1/completions", {**prompt, "model": "sql"}, "sql"),
        ("/v1/completions", {**prompt, "model": "gpt-4"}, None),
        ("/v1/completions", prompt, None),
        ("/invocations", {**prompt, "model": "sql"}, "sql"),
        ("/vertex", {"instances": [{"inputs": "a", "parameters": {"adapter_id": "sql"}}]}, "sql"),
    ]
    for path, body, adapter in bodies:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.request, "POST", path, body)
            submit = server.peer.submitted()
            assert submit.sampling.adapter == adapter, (path, body)
            server.peer.send(submit.request_id, [65], "length")
            response, data = answer.result()
        assert response.status == 200
        if "model" in body and path.startswith("/v1"):
            assert json.loads(data)["model"] == body["model"]


def test_an_adapter_that_is_not_there_is_refused(server: ApiServer) -> None:
    response, data = server.request("POST", "/generate", {"inputs": "a", "parameters": {"adapter_id": "x"}})
    assert response.status == 422
    assert json.loads(data)["error"] == (
        "Input validation error: `adapter_id` must be the name of an adapter that is loaded: loaded are sql"
    )


def test_models_lists_them(server: ApiServer) -> None:
    model, adapter = models(server)
    assert model == {"id": "tiny", "created": 0, "owned_by": "tiny", "object": "model"}
    assert adapter == {"id": "sql", "created": 0, "owned_by": "tiny", "object": "model", "parent": "tiny"}
    assert json.loads(server.request("GET", "/v1/models/sql")[1]) == adapter


def ask(server: ApiServer, path: str, body: Any, answer: AdapterAnswer) -> tuple[int, str, Any]:
    """The status, the text, and what reached the engine, which gives that answer."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.request, "POST", path, body)
        message = server.peer.asked()
        answer.request_id = message.request_id
        server.peer.tell(answer)
        response, data = asked.result()
    return response.status, data.decode(), message


def test_loading(server: ApiServer) -> None:
    body = {"lora_name": "new", "lora_path": "/data/new"}
    status, text, message = ask(server, "/v1/load_lora_adapter", body, AdapterAnswer(0))
    assert message == LoadAdapter(message.request_id, "new", "/data/new")
    assert (status, text) == (200, "Success: LoRA adapter 'new' added successfully.")
    refusal = AdapterAnswer(0, "adapter new: no such file", "invalid")
    status, text, _ = ask(server, "/v1/load_lora_adapter", body, refusal)
    assert (status, json.loads(text)["error"]["message"]) == (400, "adapter new: no such file")
    for name in ("tiny", "tgi", ""):
        response, data = server.request("POST", "/v1/load_lora_adapter", {**body, "lora_name": name})
        assert response.status == 400
        assert "that is the model itself" in json.loads(data)["error"]["message"]


def test_unloading(server: ApiServer) -> None:
    body = {"lora_name": "sql"}
    status, text, message = ask(server, "/v1/unload_lora_adapter", body, AdapterAnswer(0))
    assert message == UnloadAdapter(message.request_id, "sql")
    assert (status, text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    refusal = AdapterAnswer(0, "adapter 'sql' is not loaded", "unknown")
    assert ask(server, "/v1/unload_lora_adapter", body, refusal)[0] == 404


def test_only_who_has_the_key_may_load(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, api_key="secret") as server:
        body = {"lora_name": "new", "lora_path": "/data/new"}
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert server.request("POST", path, body)[0].status == 401


def test_an_engine_that_goes_away_answers_nobody(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir) as server, ThreadPoolExecutor(1) as pool:
        body = {"lora_name": "new", "lora_path": "/data/new"}
        asked = pool.submit(server.request, "POST", "/v1/load_lora_adapter", body)
        server.peer.asked()
        server.peer.die()
        assert asked.result()[0].status == 424
        assert server.request("POST", "/v1/unload_lora_adapter", {"lora_name": "new"})[0].status == 424
