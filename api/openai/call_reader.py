"""The calls in the answers of one request: a parser for each choice, and what calls are named."""

import string
from collections.abc import Iterator

from .. import draws
from ..text_stream import News, TextStream
from .envelope import finish_reason_of
from .schema import FinishReason
from .tool_format import MISTRAL, ToolFormat
from .tool_parser import Found, ToolParser
from .tools import Tools

_MISTRAL_ID_LENGTH = 9  # its templates refuse any other
_ALPHANUMERIC = string.ascii_letters + string.digits


class CallReader:
    """Reads every choice of a request that has tools."""

    def __init__(self, tools: Tools, form: ToolFormat) -> None:
        self._tools = tools
        self._form = form
        self._parsers: dict[int, ToolParser] = {}  # by choice

    def read(self, news: News) -> Iterator[list[Found]]:
        """Text and calls, token by token."""
        stream, parser = news.stream, self._parser(news.stream)
        last = len(news.tokens) - 1
        for position, (token, text) in enumerate(zip(news.tokens, news.texts, strict=True)):
            found = parser.feed(text) if text else []
            if token.special:
                found += parser.feed_special(token.text)
            if position == last and stream.finish_reason is not None:
                found += parser.flush()
            yield found

    def finish_reason(self, stream: TextStream) -> FinishReason | None:
        """As OpenAI names it, once all was read; None: not yet."""
        reason = finish_reason_of(stream)
        return "tool_calls" if reason == "stop" and self._parser(stream).calls else reason

    def new_id(self) -> str:
        """For one more call."""
        if self._form is MISTRAL:
            return "".join(draws.source().choice(_ALPHANUMERIC) for _ in range(_MISTRAL_ID_LENGTH))
        return f"call_{draws.hex_digits(24)}"

    def _parser(self, stream: TextStream) -> ToolParser:
        parser = self._parsers.get(stream.index)
        if parser is None:
            tools = self._tools
            parser = ToolParser(self._form, tools.names, only_calls=tools.must_call, parallel=tools.parallel)
            self._parsers[stream.index] = parser
        return parser
