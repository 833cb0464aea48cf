"""Reads an answer as its checkpoint's own ``response_template`` says; see text/response_template.py.

What is certain leaves at once: text and thoughts as they come, and the arguments of a call that is JSON and named by
its opening, or in front. What is made of a whole region (tags, lines, a dialect of JSON) leaves when the region closes.
"""

from typing import NamedTuple

import regex

from ..text.response_template import THOUGHTS, Anchor, Field, ResponseTemplate
from ..text.response_values import TIMEOUT_S
from .part import Part
from .region import Region, region_of
from .tools.formats import Schemas


class _Found(NamedTuple):
    """An anchor in the text."""

    match: regex.Match[str]
    opens: Field | None  # None: it closes the field at hand


class ResponseParser:
    """Reads one answer; see PartParser."""

    def __init__(self, template: ResponseTemplate, prompt: str, schemas: Schemas | None, *, parallel: bool) -> None:
        """
        Args:
            prompt: its end may be the beginning of the message.
            schemas: of the functions that may be called; None: calls are text like any other.
            parallel: there may be more than one call.
        """
        fields = [field for field in template.fields if schemas is not None or field.name != "tool_calls"]
        self._openings: list[tuple[Field | None, Anchor]] = [
            (field, field.open) for field in fields if field.open is not None
        ]
        self._implicit = next((field for field in fields if field.open is None), None)
        self._schemas: Schemas = schemas or {}
        self._parallel = parallel
        self._drops = False  # the call at hand is one too many
        self._text = template.message_in(prompt)
        self._own = len(self._text)  # where the answer begins
        self._special: list[tuple[int, int]] = []  # special tokens in the text, whose own text is never shown
        self._position = 0  # what stands before it was told
        self._field = self._implicit
        self._region: Region | None = None
        self._opened_at = 0
        self._said: set[str] = set()  # fields that had a region
        self._gave_up = False  # a pattern took too long: all that follows is text
        self.calls = 0
        self._read(at_end=False)
        self.calls = 0  # not of the answer

    @property
    def thinking(self) -> bool:
        """See PartParser."""
        return self._field is not None and self._field.name in THOUGHTS

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        self._text += text
        return self._read(at_end=False)

    def feed_special(self, text: str) -> list[Part]:
        """See PartParser."""
        self._special.append((len(self._text), len(self._text) + len(text)))
        return self.feed(text)

    def flush(self) -> list[Part]:
        """See PartParser."""
        return self._read(at_end=True)

    def _read(self, *, at_end: bool) -> list[Part]:
        found: list[Part] = []
        still = False  # the last anchor took nothing
        while True:
            anchor, sure = self._next(at_end)
            if anchor is None:
                break
            if still and anchor.match.end() == self._position:
                sure = self._position  # it would match again for ever
                break
            still = anchor.match.end() == self._position
            self._take(found, anchor.match.start())
            if anchor.opens is None:
                self._position = anchor.match.end()
                self._close(found)
            else:
                self._close(found)
                self._position = anchor.match.end()
                groups = {name: text for name, text in anchor.match.groupdict().items() if text is not None}
                self._open(anchor.opens, anchor.match.start(), groups)
        if self._gave_up:
            self._close(found)
            self._field = None
        self._take(found, len(self._text) if at_end else sure)
        if at_end:
            self._close(found)
        return found

    def _next(self, at_end: bool) -> tuple[_Found | None, int]:
        """The first anchor that is certain, and up to where there is none."""
        if self._gave_up:
            return None, len(self._text)
        found, sure = [], len(self._text)
        try:
            for field, anchor in self._watched():
                match = anchor.pattern.search(self._text, self._position, partial=not at_end, timeout=TIMEOUT_S)
                if match is None:
                    continue
                if not at_end and (match.partial or self._may_grow(anchor, match)):
                    sure = min(sure, self._begin(anchor, match))
                else:
                    found.append(_Found(match, field))
        except TimeoutError:
            self._gave_up = True
            return None, len(self._text)
        # The earliest, then the longest; an opening rather than a closing.
        best = min(found, key=lambda one: (one.match.start(), -one.match.end(), one.opens is None), default=None)
        return (None if best is None or best.match.start() >= sure else best), sure

    def _watched(self) -> list[tuple[Field | None, Anchor]]:
        """Within a region its closing, else every opening."""
        closing: list[tuple[Field | None, Anchor]] = []
        if self._field is not None and self._field.close is not None:
            closing = [(None, self._field.close)]
        return [*self._openings, *closing] if self._field is self._implicit else closing

    def _may_grow(self, anchor: Anchor, match: regex.Match[str]) -> bool:
        return match.end() == len(self._text) and (anchor.grows or match.start() == match.end())

    def _begin(self, anchor: Anchor, match: regex.Match[str]) -> int:
        """Where the first match that may come begins: an empty one at the end (``$``) hides those that have begun."""
        if match.partial or match.start() < match.end():
            return match.start()
        for start in range(self._position, match.start()):
            begun = anchor.pattern.match(self._text, start, partial=True, timeout=TIMEOUT_S)
            if begun is not None and begun.partial:
                return start
        return match.start()

    def _open(self, field: Field, at: int, groups: dict[str, str]) -> None:
        before = field.join if field.name in self._said else ""
        self._field, self._opened_at = field, at
        self._region = region_of(field, groups, self._schemas, before)
        self._said.add(field.name)

    def _take(self, found: list[Part], end: int) -> None:
        """All up to there belongs to the field at hand."""
        start, self._position = self._position, max(end, self._position)
        if start >= end:
            return
        shown = self._shown(start, end)
        if self._field is None:
            found += [Part(shown)] if self._gave_up and shown else []
            return
        if self._region is None:
            self._open(self._field, start, {})
        assert self._region is not None
        self._tell(found, self._region.add(self._text[start:end], shown))

    def _close(self, found: list[Part]) -> None:
        if self._region is not None:
            self._tell(found, self._region.close(self._text[max(self._opened_at, self._own) : self._position]))
        self._field, self._region = self._implicit, None

    def _tell(self, found: list[Part], parts: list[Part]) -> None:
        for part in parts:
            if part.name is not None:
                self._drops = not self._parallel and self.calls > 0
                self.calls += not self._drops
            if not self._drops or part.text or part.reasoning:
                found.append(part)

    def _shown(self, start: int, end: int) -> str:
        """What of a stretch is the answer's and no special token."""
        pieces = []
        start = max(start, self._own)
        for first, last in self._special:
            if first >= start and last <= end:
                pieces.append(self._text[start:first])
                start = last
        return "".join([*pieces, self._text[start:end]])
