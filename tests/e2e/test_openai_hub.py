"""huggingface_hub's chat_completion and a plain reader of the stream against a real server of the default model."""

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from .serving import PATIENCE_S, Serving, post

QUESTION: list[Any] = [{"role": "user", "content": "What is Deep Learning?"}]


def test_chat_completion(shared_server: Serving) -> None:
    client = InferenceClient(shared_server.url)
    answer = client.chat_completion(QUESTION, max_tokens=12, temperature=0).choices[0].message.content
    stream = client.chat_completion(QUESTION, max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer

    async def run() -> str:
        client = AsyncInferenceClient(shared_server.url)
        chunks = await client.chat_completion(QUESTION, max_tokens=12, temperature=0, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(run()) == answer


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_response_format(shared_server: Serving, kind: str) -> None:
    """The client rewrites a schema into TGI's form, and sends the other as it is."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]}
    given: Any = {"type": kind} | ({"json_schema": {"name": "x", "schema": schema}} if kind == "json_schema" else {})
    client = InferenceClient(shared_server.url)
    answer = client.chat_completion(QUESTION, max_tokens=40, temperature=0, response_format=given)
    text = answer.choices[0].message.content or ""
    assert set(json.loads(text)) == {"a"} if kind == "json_schema" else text.lstrip().startswith("{")


def test_tools(shared_server: Serving) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": "pick", "description": "", "parameters": {"properties": {"n": {"enum": [1, 2]}}}},
    }
    client = InferenceClient(shared_server.url)
    answer = client.chat_completion(QUESTION, tools=[tool], tool_choice="required", max_tokens=300, temperature=0)
    calls = answer.choices[0].message.tool_calls or []
    assert calls
    assert all(call.function.name == "pick" for call in calls)


def test_a_refusal_shows_its_reason(shared_server: Serving) -> None:
    with pytest.raises(HfHubHTTPError, match="`top_p` must be"):
        InferenceClient(shared_server.url).chat_completion(QUESTION, top_p=2)


def test_usage_of_a_second_time(shared_server: Serving) -> None:
    """The same conversation again: its beginning is in the cache, and the answer says so."""
    body = {"messages": [{"role": "user", "content": "word " * 100}], "max_tokens": 2, "temperature": 0}
    first, second = (json.load(post(f"{shared_server.url}/v1/chat/completions", body))["usage"] for _ in range(2))
    assert second["prompt_tokens_details"]["cached_tokens"] > first["prompt_tokens"] / 2
    assert first["prompt_tokens"] == second["prompt_tokens"]


def test_chat_tokenize_is_what_chat_counts(shared_server: Serving) -> None:
    tokens = json.load(post(f"{shared_server.url}/chat_tokenize", {"messages": QUESTION}))
    assert tokens["templated_text"].startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokens["templated_text"].endswith("<|im_start|>assistant\n")
    answer = json.load(post(f"{shared_server.url}/v1/chat/completions", {"messages": QUESTION, "max_tokens": 1}))
    assert answer["usage"]["prompt_tokens"] == len(tokens["tokenize_response"])


def test_platforms(shared_server: Serving) -> None:
    instances = [{"messages": QUESTION, "max_tokens": 4, "temperature": 0}, {"inputs": "1, 2,"}]
    instances[1]["parameters"] = {"max_new_tokens": 4}
    predictions = json.load(post(f"{shared_server.url}/vertex", {"instances": instances}))["predictions"]
    assert len(predictions) == 2
    assert all(predictions)
    answer = json.load(
        post(f"{shared_server.url}/invocations", {"prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0})
    )
    assert answer["object"] == "text_completion"
    with urllib.request.urlopen(f"{shared_server.url}/v1/models", timeout=PATIENCE_S) as response:
        assert json.load(response)["object"] == "list"
