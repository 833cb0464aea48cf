"""The answers of one request: a parser for each choice, what calls are named, how an answer ended."""

import string
from collections.abc import Callable, Iterator
from typing import Literal

from ..generation.request_context import random_hex, random_source
from ..text.text_sequence import SequenceOutput, TextSequence
from .part import Part, PartParser, TextParser
from .tools.formats import ToolFormat
from .tools.json_calls import MISTRAL
from .tools.named_calls import MISTRAL_ARGS

FinishReason = Literal["stop", "length", "tool_calls"]

_FINISH_REASONS: dict[str, FinishReason] = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
_MISTRAL_ID_LENGTH = 9  # its templates refuse any other
_ALPHANUMERIC = string.ascii_letters + string.digits


class AnswerReader:
    """Reads every choice of a request.

    Attributes:
        plain: every answer is text and nothing else.
        reasons: answers may have thoughts in them.
    """

    def __init__(self, new_parser: Callable[[], PartParser] | None, form: ToolFormat, *, reasons: bool) -> None:
        """
        Args:
            new_parser: of one answer; None: it is plain.
            form: how the model writes calls.
        """
        self._new_parser = new_parser or TextParser
        self._form = form
        self._parsers: dict[int, PartParser] = {}  # by choice
        self.plain = new_parser is None
        self.reasons = reasons
        self.reasoning_tokens = 0  # of all choices, with the marks around them

    def read(self, output: SequenceOutput) -> Iterator[list[Part]]:
        """Thoughts, text and calls, token by token."""
        sequence, parser = output.sequence, self._parser(output.sequence)
        last = len(output.tokens) - 1
        for position, (token, text) in enumerate(zip(output.tokens, output.texts, strict=True)):
            thinking = parser.thinking
            found = parser.feed(text) if text else []
            if token.special:
                found += parser.feed_special(token.text)
            self.reasoning_tokens += thinking or parser.thinking
            if position == last and sequence.finish_reason is not None:
                found += parser.flush()
            yield found

    def finish_reason(self, sequence: TextSequence) -> FinishReason | None:
        """As OpenAI names it, once all was read; None: not yet."""
        reason = finish_reason_of(sequence)
        return "tool_calls" if reason == "stop" and self._parser(sequence).calls else reason

    def new_id(self) -> str:
        """For one more call."""
        if self._form in (MISTRAL, MISTRAL_ARGS):
            return "".join(random_source().choice(_ALPHANUMERIC) for _ in range(_MISTRAL_ID_LENGTH))
        return f"call_{random_hex(24)}"

    def _parser(self, sequence: TextSequence) -> PartParser:
        parser = self._parsers.get(sequence.index)
        if parser is None:
            parser = self._parsers[sequence.index] = self._new_parser()
        return parser


def finish_reason_of(sequence: TextSequence) -> FinishReason | None:
    """As OpenAI names it; None: not finished yet. An end token on the last allowed place is an end, unlike in TGI."""
    if sequence.finish_reason is None:
        return None
    generation = sequence.remote
    if sequence.finish_reason == "length" and generation.token_ids[-1] in generation.sampling.stop_token_ids:
        return "stop"
    return _FINISH_REASONS[sequence.finish_reason]
