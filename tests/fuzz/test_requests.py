"""Bodies that are almost requests, to every route that takes one: an answer or a typed error, never a fault of ours."""

import copy
import http.client
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headwater.engine.messages import Submit

from ..api.conftest import ApiServer, EnginePeer, byte_ids, byte_tokenizer, run_api_server

SEEDS: dict[str, dict[str, Any]] = {
    "/generate": {
        "inputs": "x",
        "parameters": {
            "max_new_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "stop": ["a"], "seed": 1, "best_of": 1,
            "grammar": {"type": "regex", "value": "a+"}, "logit_bias": {"5": 1.0}, "details": True, "top_n_tokens": 2,
        },
    },
    "/generate_stream": {"inputs": "x", "parameters": {"do_sample": True, "typical_p": 0.5}},
    "/": {"inputs": "x", "stream": True, "parameters": {"return_full_text": True, "truncate": 3}},
    "/tokenize": {"inputs": "x", "add_special_tokens": False},
    "/detokenize": {"tokens": [1, 2, 257], "model": None},
    "/v1/completions": {"prompt": ["a", "b"], "n": 1, "max_tokens": 2, "logprobs": 1, "stream": True, "suffix": None},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto", "logit_bias": {"1": 2}, "stop": "x",
    },
    "/v1/messages": {
        "model": "m", "max_tokens": 2, "system": [{"type": "text", "text": "x"}], "stream": True,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"},
                                              {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "low"},
    },
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
        ],
        "max_output_tokens": 2, "stream": True, "background": False, "previous_response_id": None,
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low"},
    },
}  # fmt: skip
EXPECTED = {200, 400, 404, 408, 413, 415, 422, 424, 429, 431, 504}
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(
    [{}, [], "\ud800", 2**64, -(2**63), 1e400, "a" * 5000, {"type": "json", "value": "{"}, [[[[]]]], {"": {"": None}}]
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path, and its body with some values, keys or bytes changed."""
    path = draw(st.sampled_from(sorted(SEEDS)))
    body = json.loads(json.dumps(SEEDS[path]))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, body)
    data = json.dumps(body).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    return path, data


def _change(draw: st.DrawFn, node: Any) -> None:
    while True:
        if isinstance(node, dict) and node:
            key: Any = draw(st.sampled_from(sorted(node)))
        elif isinstance(node, list) and node:
            key = draw(st.integers(0, len(node) - 1))
        else:
            return
        if draw(st.booleans()) or not isinstance(node[key], dict | list):
            node[key] = copy.deepcopy(draw(ODD))
            return
        node = node[key]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Its engine gives every sequence one token."""
    model = tmp_path_factory.mktemp("model")
    byte_tokenizer().save(str(model / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 257}))
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=4096)
    with run_api_server(tmp_path_factory.mktemp("api"), model, hello, payload_limit=100_000) as server:
        ended = threading.Event()
        thread = threading.Thread(target=_answer_all, args=(server, ended))
        thread.start()
        yield server
        ended.set()
        thread.join()


def _answer_all(server: ApiServer, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            connection, message = server.peer.inbox.get(timeout=0.1)
        except queue.Empty:
            continue
        if isinstance(message, Submit):
            server.peer.senders[message.request_id] = connection
            wanted = [-1.0] * (len(message.prompt_ids) - 1) if message.sampling.prompt_logprobs else None
            top = [(byte_ids("b")[0], -1.0)] if message.sampling.top_n else None
            server.peer.send(message.request_id, byte_ids("a"), "length", top=top, prompt_logprobs=wanted)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies())
@example(("/generate", b'{"inputs":"x","parameters":{"grammar":{"type":"json","value":' + b"[" * 3000))
@example(("/generate", b'{"inputs":"\\ud800"}'))
@example(("/tokenize", b'{"inputs":"a\\u0000b"}'))
def test_a_body_is_answered_or_refused(server: ApiServer, body: tuple[str, bytes]) -> None:
    path, data = body
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30.0)
    connection.request("POST", path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status in EXPECTED, answer
    # Neither where our code lies nor what failed in it.
    for secret in (b"Traceback", b"site-packages", b"headwater/", b".py", b"/tmp/"):
        assert secret not in answer


def test_the_server_is_as_well_as_before(server: ApiServer) -> None:
    response, _ = server.request("POST", "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 1}})
    assert response.status == 200
    assert server.metric("headwater_requests") == 0


def test_the_seeds_themselves_are_taken(server: ApiServer) -> None:
    for path, body in SEEDS.items():
        response, data = server.request("POST", path, body)
        assert response.status == 200, (path, data)


def test_nobody_sees_a_file(server: ApiServer) -> None:
    for path in ("/../../etc/passwd", "/page/..%2f..%2fconfig.py", "/%2e%2e/pyproject.toml", "//etc/passwd"):
        response, data = server.request("GET", path)
        assert response.status == 404
        assert b"root:" not in data
