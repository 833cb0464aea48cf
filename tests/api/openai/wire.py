"""Requests of the tests, and what the stand-in for the engine answers."""

import http.client
import json
from typing import Any

from openai import types as openai_types
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from headwater.engine.messages import Submit

from ..conftest import ApiServer, byte_ids

BOS, EOS = 256, 257
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
# The types of OpenAI's own package, which every answer and event must be of.
WHOLE: dict[str, type[BaseModel]] = {CHAT: ChatCompletion, COMPLETIONS: openai_types.Completion}
STREAMED: dict[str, type[BaseModel]] = {CHAT: ChatCompletionChunk}
HI = [{"role": "user", "content": "Hi"}]


def ids(text: str) -> list[int]:
    return byte_ids(text)


def answer(server: ApiServer, submit: Submit, text: str, finish: str = "eos_token", *, step: int = 3) -> None:
    """Send a text in steps of a few tokens; an end token follows if that is how it ends."""
    tokens = ids(text) + ([EOS] if finish == "eos_token" else [])
    for start in range(0, len(tokens), step):
        last = start + step >= len(tokens)
        server.peer.send(submit.request_id, tokens[start : start + step], finish if last else None)


def connection(
    server: ApiServer, path: str, body: dict[str, Any], *texts: str, finish: str = "eos_token"
) -> tuple[list[Submit], http.client.HTTPResponse]:
    """Post, answer each sequence with its text, and return what the engine was asked and the response."""
    connection = server.begin(path, body)
    submits = [server.peer.submitted() for _ in texts]
    for submit, text in zip(submits, texts, strict=True):
        answer(server, submit, text, finish)
    return submits, connection.getresponse()


def whole(server: ApiServer, path: str, body: dict[str, Any], *texts: str, finish: str = "eos_token") -> Any:
    """The decoded answer."""
    _, response = connection(server, path, body, *texts, finish=finish)
    data = response.read()
    assert response.status == 200, data
    if path in WHOLE:
        WHOLE[path].model_validate_json(data, strict=True)
    return json.loads(data)


def events_of(response: http.client.HTTPResponse) -> list[Any]:
    """All events of a stream that ends as it should, decoded."""
    assert response.status == 200, response.read()
    assert response.getheader("content-type") == "text/event-stream"
    *events, done, end = response.read().decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def streamed(server: ApiServer, path: str, body: dict[str, Any], *texts: str, finish: str = "eos_token") -> list[Any]:
    """The events of the same request with ``stream``."""
    events = events_of(connection(server, path, body | {"stream": True}, *texts, finish=finish)[1])
    for event in events if path in STREAMED else ():
        STREAMED[path].model_validate_json(json.dumps(event), strict=True)
    return events


def joined(events: list[Any], index: int = 0) -> str:
    """Text that a stream gives to one choice."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


def refused(server: ApiServer, path: str, body: Any) -> tuple[int, Any]:
    """Status and error of a request that never reaches the engine."""
    response, data = server.request("POST", path, body)
    answer = json.loads(data)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert server.peer.inbox.empty()
    return response.status, answer["error"]
