"""The calls in the answers of one request: a parser for each choice, and what calls are named."""

import string
from collections.abc import Iterator

from ...generation.request_context import random_hex, random_source
from ...text.text_sequence import SequenceOutput, TextSequence
from ..chunks import finish_reason_of
from ..schema import FinishReason
from .choice import Tools
from .formats import MISTRAL, ToolFormat
from .parser import ParsedDelta, ToolParser

_MISTRAL_ID_LENGTH = 9  # its templates refuse any other
_ALPHANUMERIC = string.ascii_letters + string.digits


class ToolCallReader:
    """Reads every choice of a request that has tools."""

    def __init__(self, tools: Tools, form: ToolFormat) -> None:
        self._tools = tools
        self._form = form
        self._parsers: dict[int, ToolParser] = {}  # by choice

    def read(self, output: SequenceOutput) -> Iterator[list[ParsedDelta]]:
        """Text and calls, token by token."""
        sequence, parser = output.sequence, self._parser(output.sequence)
        last = len(output.tokens) - 1
        for position, (token, text) in enumerate(zip(output.tokens, output.texts, strict=True)):
            found = parser.feed(text) if text else []
            if token.special:
                found += parser.feed_special(token.text)
            if position == last and sequence.finish_reason is not None:
                found += parser.flush()
            yield found

    def finish_reason(self, sequence: TextSequence) -> FinishReason | None:
        """As OpenAI names it, once all was read; None: not yet."""
        reason = finish_reason_of(sequence)
        return "tool_calls" if reason == "stop" and self._parser(sequence).calls else reason

    def new_id(self) -> str:
        """For one more call."""
        if self._form is MISTRAL:
            return "".join(random_source().choice(_ALPHANUMERIC) for _ in range(_MISTRAL_ID_LENGTH))
        return f"call_{random_hex(24)}"

    def _parser(self, sequence: TextSequence) -> ToolParser:
        parser = self._parsers.get(sequence.index)
        if parser is None:
            tools = self._tools
            parser = ToolParser(self._form, tools.names, only_calls=tools.must_call, parallel=tools.parallel)
            self._parsers[sequence.index] = parser
        return parser
