"""The three ways to ask for a stream, and how their events are read. Only the fields that are needed are decoded."""

from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from .answer import Answer

ProtocolName = Literal["tgi", "openai", "openai-chat"]


class Message(Struct):
    """One message of a chat."""

    role: Literal["user", "assistant"]
    content: str


class RequestOptions(Struct, frozen=True):
    """What all requests of a run have in common."""

    model: str = ""
    ignore_eos: bool = True
    extra: dict[str, Any] = {}  # added to the body (tgi: to its parameters), and wins


class StreamProtocol(Protocol):
    """How a server is spoken to."""

    path: str

    def body(self, options: RequestOptions, messages: list[Message], new_tokens: int) -> dict[str, Any]:
        """The request. Without a chat form, messages are joined: a server adds no template then."""

    def read(self, payload: bytes, answer: Answer, now: float) -> None:
        """Take one event. Raises msgspec.DecodeError."""


def joined(messages: list[Message]) -> str:
    """Messages as plain text."""
    return "\n".join(message.content for message in messages)


class TgiToken(Struct, gc=False):
    text: str


class TgiDetails(Struct, gc=False):
    generated_tokens: int
    input_length: int | None = None


class TgiEvent(Struct, gc=False):
    token: TgiToken | None = None
    generated_text: str | None = None
    details: TgiDetails | None = None
    error: str | None = None


class Tgi:
    """POST /generate_stream: an event is a token, the last one has the whole text and, if asked for, details."""

    path = "/generate_stream"

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(TgiEvent).decode

    def body(self, options: RequestOptions, messages: list[Message], new_tokens: int) -> dict[str, Any]:
        parameters = {"max_new_tokens": new_tokens, "details": True}
        if options.ignore_eos:
            parameters["ignore_eos"] = True
        return {"inputs": joined(messages), "parameters": parameters | options.extra}

    def read(self, payload: bytes, answer: Answer, now: float) -> None:
        event = self._decode(payload)
        if event.error is not None:
            answer.fail("server_error", event.error)
            return
        if event.token is None:
            raise msgspec.ValidationError("an event without token or error")
        answer.times.append(now)
        answer.text.append(event.token.text)
        if event.details is not None:
            answer.output_tokens = event.details.generated_tokens
            answer.input_tokens = event.details.input_length
        if event.generated_text is not None:
            answer.ended = True
            if answer.output_tokens is not None and answer.output_tokens != len(answer.times):
                answer.fail("wrong_count", f"{answer.output_tokens} tokens claimed, {len(answer.times)} sent")


class Delta(Struct, gc=False):
    role: str | None = None
    content: str | None = None


class OpenAIChoice(Struct, gc=False):
    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class OpenAIUsage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class OpenAIEvent(Struct, gc=False):
    choices: list[OpenAIChoice] = []
    usage: OpenAIUsage | None = None
    error: Any = None


class OpenAI:
    """POST /v1/completions: every chunk with choices counts, as in `vllm bench serve`; usage comes in one without.

    Only a first chat chunk that has a role and no content isn't counted: that one may come long before a token.
    """

    path = "/v1/completions"

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(OpenAIEvent).decode

    def body(self, options: RequestOptions, messages: list[Message], new_tokens: int) -> dict[str, Any]:
        return self._body(options, {"prompt": joined(messages)}, new_tokens)

    def _body(self, options: RequestOptions, prompt: dict[str, Any], new_tokens: int) -> dict[str, Any]:
        body = {"model": options.model, **prompt, "max_tokens": new_tokens, "temperature": 0.0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if options.ignore_eos:
            body["ignore_eos"] = True
        return body | options.extra

    def read(self, payload: bytes, answer: Answer, now: float) -> None:
        if payload.strip() == b"[DONE]":
            answer.ended = True
            return
        event = self._decode(payload)
        if event.error is not None:
            answer.fail("server_error", msgspec.json.encode(event.error).decode())
            return
        if event.usage is not None and event.usage.completion_tokens is not None:
            answer.input_tokens = event.usage.prompt_tokens
            answer.output_tokens = event.usage.completion_tokens
        if event.choices:
            choice = event.choices[0]
            # Some servers send no [DONE].
            answer.ended = answer.ended or choice.finish_reason is not None
            delta = choice.delta
            if delta is not None and delta.role and not delta.content and not answer.times:
                return  # it says who speaks, not what: no token, whenever it comes
            answer.times.append(now)
            answer.text.append(choice.text or (delta.content if delta is not None else None) or "")


class OpenAIChat(OpenAI):
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    def body(self, options: RequestOptions, messages: list[Message], new_tokens: int) -> dict[str, Any]:
        return self._body(options, {"messages": msgspec.to_builtins(messages)}, new_tokens)


PROTOCOLS: dict[ProtocolName, type[StreamProtocol]] = {"tgi": Tgi, "openai": OpenAI, "openai-chat": OpenAIChat}
