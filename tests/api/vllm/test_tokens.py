"""vLLM's routes around the tokenizer, and that TGI's /tokenize is what it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ApiServer, byte_ids, run_api_server

BOS, EOS = 256, 257
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    path = tmp_path_factory.mktemp("vllm")
    for file in model_dir.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    config = {"chat_template": TEMPLATE, "bos_token": {"content": "<|begin|>"}, "model_max_length": 99}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    with run_api_server(tmp_path_factory.mktemp("api"), path, payload_limit=100_000) as server:
        yield server


def posted(server: ApiServer, path: str, body: Any) -> tuple[int, Any]:
    response, data = server.request("POST", path, body)
    return response.status, json.loads(data) if response.getheader("content-type") == "application/json" else data


@pytest.mark.parametrize(
    ("asked", "front"), [({}, [BOS]), ({"add_special_tokens": False}, []), ({"add_special_tokens": None}, [BOS])]
)
def test_the_ids_of_a_text(server: ApiServer, asked: dict[str, Any], front: list[int]) -> None:
    ids = front + byte_ids("aé")
    expected = {"count": len(ids), "max_model_len": 64, "tokens": ids, "token_strs": None}
    assert posted(server, "/tokenize", {"model": "any", "prompt": "aé"} | asked) == (200, expected)


def test_token_strs_are_as_the_vocabulary_spells_them(server: ApiServer) -> None:
    _, answer = posted(server, "/tokenize", {"prompt": "a é", "return_token_strs": True})
    assert answer["token_strs"] == ["<|begin|>", "a", "Ġ", "Ã", "©"]


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({}, "user:Hi;assistant:"),
        ({"add_generation_prompt": False}, "user:Hi;"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "user:Hi;f;assistant:"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "é"}]}]}, "user:é;assistant:"),
        ({"messages": [{"role": "assistant", "content": "so"}], "continue_final_message": True}, "assistant:so"),
    ],
)
def test_the_ids_of_a_conversation(server: ApiServer, asked: dict[str, Any], prompt: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]} | asked
    assert posted(server, "/tokenize", body)[1]["tokens"] == byte_ids(prompt)
    assert posted(server, "/tokenize", body | {"add_special_tokens": True})[1]["tokens"] == [BOS, *byte_ids(prompt)]


def test_a_conversation_counts_what_chat_generates_from(server: ApiServer) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "so"}]
    _, answer = posted(server, "/tokenize", {"messages": messages})
    connection = server.begin("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, byte_ids("a"), "length")
    assert connection.getresponse().status == 200
    assert answer["tokens"] == submit.prompt_ids


def test_inputs_make_it_tgis(server: ApiServer) -> None:
    (a,) = byte_ids("a")
    body = {"inputs": "a", "prompt": "b", "messages": [], "add_special_tokens": False}
    response, data = server.request("POST", "/tokenize", body)
    assert response.status == 200
    front = '{"id":256,"text":"","start":0,"stop":0}'
    assert data.decode() == f'[{front},{{"id":{a},"text":"a","start":0,"stop":1}}]'


SHAPE = b"Failed to deserialize the JSON body into the target type: "


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, SHAPE + b"Object missing required field `inputs`"),
        ([], SHAPE + b"Expected `object`, got `array`"),
        ({"inputs": 1}, SHAPE + b"inputs: Expected `str`, got `int`"),
        ({"prompt": 1}, SHAPE + b"prompt: Expected `str`, got `int`"),
        ({"messages": "x"}, SHAPE + b"messages: Expected `array`, got `str`"),
        ({"prompt": "x", "add_special_tokens": "no"}, SHAPE + b"add_special_tokens: Expected `bool | null`, got `str`"),
    ],
)
def test_bodies_of_the_wrong_shape(server: ApiServer, body: Any, text: bytes) -> None:
    assert posted(server, "/tokenize", body) == (422, text)


def test_a_template_of_the_clients_is_refused(server: ApiServer) -> None:
    status, answer = posted(server, "/tokenize", {"messages": [{"role": "user", "content": "x"}], "chat_template": "y"})
    assert (status, answer["error_type"]) == (422, "validation")
    assert "`chat_template` is not supported" in answer["error"]


@pytest.mark.parametrize("text", ["", "aé日😀", "x" * 5000])
def test_text_and_ids_are_each_others(server: ApiServer, text: str) -> None:
    _, answer = posted(server, "/tokenize", {"prompt": text})
    assert posted(server, "/detokenize", {"tokens": answer["tokens"]}) == (200, {"prompt": "<|begin|>" + text})


def test_token_ids_that_are_none(server: ApiServer) -> None:
    status, answer = posted(server, "/detokenize", {"tokens": [1, 258]})
    assert (status, answer["error"]) == (422, "Input validation error: `tokens` must be < 258. Given: 258")
    assert posted(server, "/detokenize", {"tokens": [-1]})[0] == 422
    assert posted(server, "/detokenize", {})[0] == 422


def test_what_the_tokenizer_is(server: ApiServer) -> None:
    response, data = server.request("GET", "/tokenizer_info")
    assert response.status == 200
    assert json.loads(data) == {
        "chat_template": TEMPLATE,
        "bos_token": "<|begin|>",
        "model_max_length": 99,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",  # of generation_config.json
    }


def test_the_version_is_headwaters(server: ApiServer) -> None:
    response, data = server.request("GET", "/version")
    assert (response.status, json.loads(data)) == (200, {"version": "0"})


def test_all_of_them_want_the_key(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, api_key="k") as locked:
        for method, path in (("POST", "/detokenize"), ("GET", "/tokenizer_info"), ("GET", "/version")):
            assert locked.request(method, path, {"tokens": []} if method == "POST" else None)[0].status == 401
