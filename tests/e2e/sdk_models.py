"""Answers and events of every route as the types of OpenAI's and Anthropic's own packages, for requests of all kinds.

    python -m tests.e2e.sdk_models http://127.0.0.1:8080 --requests 500

Stricter than the packages themselves, which take whatever comes: each value must be of its type, and a field that a
type doesn't have must be one of ours.
"""

import argparse
import http.client
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion, ErrorObject
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

PATIENCE_S = 120.0
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
# Ours, and one that OpenAI documents and sends.
OURS = frozenset({"reasoning", "reasoning_content", "store"})

Request = tuple[str, dict[str, Any]]  # path, body

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 99}},
    "required": ["city"],
    "additionalProperties": False,
}
_TEXTS = ("Hi", "What is the weather in Oslo?", "Grüezi 🌍", "Say it in JSON.", "1 + 1 =")


def requests(count: int, seed: int = 1) -> Iterator[Request]:
    """So many of all kinds in turn; about one in eight is refused."""
    chance = random.Random(seed)
    makers = (_chat, _responses, _messages, _completion, _chat, _responses, _messages, _count)
    for number in range(count):
        path, body = makers[number % len(makers)](chance)
        if number % 8 == number // 8 % 8:
            path, body = _spoilt(chance, path, body)
        yield path, body


def check(url: str, path: str, body: dict[str, Any]) -> str:
    """Send one, and validate all of its answer. Returns the kind of answer. Raises ValueError, AssertionError."""
    status, kind, data = _send(url, path, body)
    if status != 200:
        assert kind == "application/json", (path, body, status, data)
        error = json.loads(data)
        if path in (MESSAGES, COUNT):
            _valid(ErrorResponse, error)
        else:
            assert set(error) == {"error"}
            _valid(ErrorObject, error["error"])
        return f"{path} {status}"
    if not body.get("stream"):
        assert kind == "application/json"
        _valid(_WHOLE[path], json.loads(data))
        return f"{path} whole"
    assert kind == "text/event-stream"
    _check_stream(path, data.decode())
    return f"{path} streamed"


def _check_stream(path: str, text: str) -> None:
    *events, end = text.split("\n\n")
    assert end == ""
    if path in (CHAT, COMPLETIONS):
        assert events.pop() == "data: [DONE]"
    found = []
    for event in events:
        if event == ":":  # a keep-alive
            continue
        *names, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        names = [name for name in names if not name.startswith("id: ")]  # of a stream that may be gone on with
        assert names == ([f"event: {found[-1]['type']}"] if path in (RESPONSES, MESSAGES) else [])
        if found[-1] != {"type": "ping"}:  # documented, and no part of the package's union
            _valid(_STREAMED[path], found[-1])
    assert found
    if path == RESPONSES:
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        assert found[-1]["type"] in ("response.completed", "response.incomplete"), found[-1]
        items = [event["item"] for event in found if event["type"] == "response.output_item.done"]
        assert items == found[-1]["response"]["output"]
    if path == MESSAGES:
        assert found[-1] == {"type": "message_stop"}


def _send(url: str, path: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.getheader("content-type", ""), data


def _valid(kind: Any, value: Any) -> None:
    """Raises ValueError."""
    if kind is Completion:
        value = _with_what_openai_leaves_out(value)
    model = TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    _no_others(model, type(model).__name__)


def _with_what_openai_leaves_out(completion: dict[str, Any]) -> dict[str, Any]:
    """OpenAI sends null before a completion ends, and for the first token of a prompt, though no type says so."""
    choices = []
    for choice in completion["choices"]:
        logprobs = choice["logprobs"]
        if logprobs and logprobs["token_logprobs"] and logprobs["token_logprobs"][0] is None:
            best = logprobs["top_logprobs"]
            logprobs |= {"token_logprobs": [0.0, *logprobs["token_logprobs"][1:]]}
            logprobs |= {"top_logprobs": best and [best[0] or {}, *best[1:]]}
        choices.append(choice | {"finish_reason": choice["finish_reason"] or "stop", "logprobs": logprobs})
    return completion | {"choices": choices}


def _no_others(value: Any, where: str) -> None:
    """No field beside those that the type has; what it takes as any JSON is no business of ours."""
    if isinstance(value, BaseModel):
        if others := set(value.__pydantic_extra__ or ()) - OURS:
            raise ValueError(f"{where} has no {', '.join(sorted(others))}")
        for name in type(value).model_fields:
            _no_others(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for one in value:
            _no_others(one, where)


_WHOLE: dict[str, Any] = {
    CHAT: ChatCompletion, COMPLETIONS: Completion, RESPONSES: Response, MESSAGES: Message, COUNT: MessageTokensCount
}  # fmt: skip
_STREAMED: dict[str, Any] = {
    CHAT: ChatCompletionChunk, COMPLETIONS: Completion, RESPONSES: ResponseStreamEvent, MESSAGES: RawMessageStreamEvent
}  # fmt: skip


def _some(chance: random.Random, fields: dict[str, Callable[[], Any]], share: float = 0.3) -> dict[str, Any]:
    return {name: make() for name, make in fields.items() if chance.random() < share}


def _turns(chance: random.Random) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [{"role": "user", "content": chance.choice(_TEXTS)}]
    if chance.random() < 0.3:
        turns += [{"role": "assistant", "content": "Hm."}, {"role": "user", "content": chance.choice(_TEXTS)}]
    return turns


def _chat(chance: random.Random) -> Request:
    body: dict[str, Any] = {"model": "m", "messages": _turns(chance), "max_tokens": chance.choice((1, 4, 16, 40))}
    body["stream"] = chance.random() < 0.5
    if body["stream"]:
        body |= _some(chance, {"stream_options": lambda: {"include_usage": True}})
    function = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
    if chance.random() < 0.4:
        body["tools"] = [{"type": "function", "function": function | _some(chance, {"strict": lambda: True})}]
        named = {"type": "function", "function": {"name": "weather"}}
        body |= _some(chance, {"tool_choice": lambda: chance.choice(("auto", "required", "none", named))}, 0.8)
        body |= _some(chance, {"parallel_tool_calls": lambda: False})
    if chance.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": chance.choice((0, 2))}
    form = {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA, "strict": True}}
    return CHAT, body | _some(chance, {
        "temperature": lambda: chance.choice((0, 0.7)),
        "n": lambda: 2,
        "stop": lambda: ["e"],
        "seed": lambda: 7,
        "response_format": lambda: chance.choice((form, {"type": "json_object"}, {"type": "text"})),
        "reasoning_effort": lambda: chance.choice(("low", "none")),
    }, 0.2)  # fmt: skip


def _completion(chance: random.Random) -> Request:
    body: dict[str, Any] = {"model": "m", "prompt": chance.choice(_TEXTS), "max_tokens": chance.choice((1, 4, 16))}
    return COMPLETIONS, body | {"stream": chance.random() < 0.5} | _some(chance, {
        "logprobs": lambda: chance.choice((0, 3)),
        "echo": lambda: True,
        "prompt": lambda: list(_TEXTS[:2]),
        "n": lambda: 2,
        "temperature": lambda: 0,
        "stop": lambda: "e",
    })  # fmt: skip


def _responses(chance: random.Random) -> Request:
    body: dict[str, Any] = {"model": "m", "max_output_tokens": chance.choice((1, 4, 16, 40))}
    body["stream"] = chance.random() < 0.5
    called = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    asked = {"role": "user", "content": [{"type": "input_text", "text": chance.choice(_TEXTS)}]}
    body["input"] = chance.choice((chance.choice(_TEXTS), [asked], [asked, thought, called, result]))
    if chance.random() < 0.4:
        tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": chance.random() < 0.5}
        body["tools"] = [tool]
        named = {"type": "function", "name": "weather"}
        allowed = {"type": "allowed_tools", "mode": "auto", "tools": [named]}
        body |= _some(chance, {"tool_choice": lambda: chance.choice(("auto", "required", "none", named, allowed))}, 0.8)
    if chance.random() < 0.3:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": chance.choice((0, 2))}
    form = {"type": "json_schema", "name": "report", "schema": SCHEMA, "strict": True}
    return RESPONSES, body | _some(chance, {
        "instructions": lambda: "Be brief.",
        "temperature": lambda: chance.choice((0, 0.7)),
        "metadata": lambda: {"a": "b"},
        "store": lambda: False,
        "text": lambda: {"format": chance.choice((form, {"type": "json_object"}, {"type": "text"}))},
        "reasoning": lambda: {"effort": chance.choice(("low", "none", None))},
        "parallel_tool_calls": lambda: False,
        "user": lambda: "u",
        "background": lambda: True,
    }, 0.2)  # fmt: skip


def _count(chance: random.Random) -> Request:
    content = chance.choice((chance.choice(_TEXTS), [{"type": "text", "text": chance.choice(_TEXTS)}]))
    used = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if chance.random() < 0.3:
        messages += [{"role": "assistant", "content": [thought, used]}, {"role": "user", "content": [result]}]
    body: dict[str, Any] = {"model": "m", "messages": messages}
    if chance.random() < 0.4:
        body["tools"] = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}]
        choices = ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "weather"}, {"type": "none"})
        body |= _some(chance, {"tool_choice": lambda: chance.choice(choices)}, 0.8)
    return COUNT, body | _some(chance, {
        "system": lambda: chance.choice(("Be brief.", [{"type": "text", "text": "Be brief."}])),
        "thinking": lambda: chance.choice(({"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"})),
        "output_config": lambda: {"format": {"type": "json_schema", "schema": SCHEMA}},
    })  # fmt: skip


def _messages(chance: random.Random) -> Request:
    _, body = _count(chance)
    body |= {"max_tokens": chance.choice((1, 4, 16, 40)), "stream": chance.random() < 0.5}
    return MESSAGES, body | _some(chance, {"temperature": lambda: 0.5, "stop_sequences": lambda: ["e"]})


def _spoilt(chance: random.Random, path: str, body: dict[str, Any]) -> Request:
    """The same with one thing that no server takes."""
    wrong: dict[str, Any] = {"temperature": -1, "max_tokens": "many", "messages": 7, "input": 7, "prompt": {}}
    wrong["tools"] = [{"type": "unheard_of", "name": "f"}]
    name = chance.choice([name for name in wrong if name in body] or ["temperature"])
    if path == COUNT:
        name = "messages"
    return path, body | {name: wrong[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found: Counter[str] = Counter()
    for path, body in requests(given.requests, given.seed):
        try:
            found[check(given.url, path, body)] += 1
        except (ValueError, AssertionError) as error:
            found["WRONG"] += 1
            print(f"{path} {json.dumps(body)}\n{error}\n")
    for kind, number in sorted(found.items()):
        print(f"{number:5} {kind}")
    raise SystemExit(bool(found["WRONG"]))


if __name__ == "__main__":
    main()
