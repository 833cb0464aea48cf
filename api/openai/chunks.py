"""What every answer and event of one request has in common, and the bytes of its events, built once."""

from typing import Literal

import msgspec

from ..chat.answer import AnswerReader, FinishReason
from ..chat.request import StreamOptions
from ..generation.request import GenerationRequest
from ..generation.request_context import random_hex, request_context
from ..generation.service import Service
from ..http.sse import event_of
from .schema import CompletionTokensDetails, PromptTokensDetails, Usage

DONE = b"data: [DONE]\n\n"

_NO_MODEL = ("", "tgi")  # what TGI's clients send that have no model to name

encode = msgspec.json.Encoder().encode


class ResponseInfo:
    """Names and times of one answer.

    Attributes:
        id, created, model: as sent.
        system_fingerprint: of what decides which tokens come, so it bears headwater's version, not TGI's.
    """

    def __init__(self, service: Service, kind: Literal["chatcmpl", "cmpl"], model: str | None) -> None:
        self.id = f"{kind}-{random_hex(24)}"
        self.created = request_context().created
        self.model = service.config.model_id if model is None or model in _NO_MODEL else model
        self.system_fingerprint = f"{service.config.version}-native"

    def head(self, kind: str) -> bytes:
        """An event of that kind, up to its first choice."""
        return b'{"id":%s,"object":%s,"created":%d,"model":%s,"system_fingerprint":%s,"choices":[' % (
            encode(self.id),
            encode(kind),
            self.created,
            encode(self.model),
            encode(self.system_fingerprint),
        )


def usage_of(generation: GenerationRequest, reader: AnswerReader | None = None) -> Usage:
    """Tokens so far: each prompt once, and those of every sequence."""
    prompt, completion = (
        generation.stats.prompt_tokens,
        sum(sequence.generated_tokens for sequence in generation.sequences),
    )
    usage = Usage(prompt, completion, prompt + completion, PromptTokensDetails(generation.stats.cached_tokens))
    if reader is not None and reader.reasons:
        usage.completion_tokens_details = CompletionTokensDetails(reader.reasoning_tokens)
    return usage


class Chunks:
    """Encodes the events of one stream: the bytes that never change around the few that do."""

    def __init__(
        self,
        generation: GenerationRequest,
        head: bytes,
        options: StreamOptions | None,
        text_key: bytes,
        text_end: bytes = b"",
        reader: AnswerReader | None = None,
    ) -> None:
        """
        Args:
            head: of every event.
            reader: of the answers; counts thoughts.
            text_key, text_end: what stands around a piece of text within a choice.
        """
        self._generation = generation
        self._reader = reader
        self._head = head
        self._usage = bool(options and options.include_usage)
        self._continuous = self._usage and bool(options and options.continuous_usage_stats)
        self._text_key = text_key
        self._text_end = text_end
        self._before: dict[int, bytes] = {}  # by choice
        self._after = text_end + b',"logprobs":null,"finish_reason":null}' + self._tail()

    def text(self, index: int, text: str) -> bytes:
        """A piece of text and nothing else: nearly every event."""
        if self._continuous:
            return self.choice(index, self.text_field(text))
        before = self._before.get(index)
        if before is None:
            before = self._before[index] = b'%s{"index":%d,%s' % (self._head, index, self._text_key)
        return event_of(before + encode(text) + self._after)

    def text_field(self, text: str) -> bytes:
        """A piece of text as a field of a choice."""
        return self._text_key + encode(text) + self._text_end

    def choice(
        self, index: int, field: bytes, logprobs: bytes = b"null", finish_reason: FinishReason | None = None
    ) -> bytes:
        """Any event of a choice; ``field`` is its text or delta."""
        choice = b'{"index":%d,%s,"logprobs":%s,"finish_reason":%s}' % (index, field, logprobs, encode(finish_reason))
        return event_of(self._head + choice + self._tail())

    def closing(self) -> bytes:
        """What follows the last choice."""
        if not self._usage:
            return DONE
        return event_of(b'%s],"usage":%s}' % (self._head, encode(usage_of(self._generation, self._reader)))) + DONE

    def _tail(self) -> bytes:
        if not self._usage:
            return b"]}"
        return b'],"usage":%s}' % (encode(usage_of(self._generation, self._reader)) if self._continuous else b"null")
