"""What an answer is made of, as it comes."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct


class Part(Struct, gc=False):
    """What came: text, thoughts, the beginning of a call (``name``), or a piece of the last call's arguments."""

    text: str = ""
    reasoning: str = ""
    name: str | None = None
    arguments: str = ""


class PartParser(Protocol):
    """Reads one answer."""

    @property
    def calls(self) -> int:
        """Begun so far."""
        ...

    @property
    def thinking(self) -> bool:
        """What comes now is thought, not said."""
        ...

    def feed(self, text: str) -> list[Part]:
        """What more text brings."""
        ...

    def feed_special(self, text: str) -> list[Part]:
        """What a special token brings, whose own text is never shown."""
        ...

    def flush(self) -> list[Part]:
        """What is left at the end."""
        ...


class TextParser:
    """Of a model without thoughts and a request without tools: all is text."""

    calls = 0
    thinking = False

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        return [Part(text)] if text else []

    def feed_special(self, text: str) -> list[Part]:  # noqa: ARG002
        """See PartParser."""
        return []

    def flush(self) -> list[Part]:
        """See PartParser."""
        return []


def overlap(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of ``text`` that one of the markers begins with, but is longer than."""
    return max((_overlap(text, marker) for marker in markers), default=0)


def _overlap(text: str, marker: str) -> int:
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0


class StateParser:
    """What parsers of several states have in common: each state is a method that takes what it can of the text held.

    It returns whether to go on, and says with its parts what it found.
    """

    def __init__(self, state: str) -> None:
        self._state = state
        self._held = ""  # may be the beginning of something

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        found: list[Part] = []
        self._held += text
        while self._held and getattr(self, f"_{self._state}")(found):
            pass
        return found

    def _take_text(self, found: list[Part], opening: str) -> bool:
        """Text up to an opening, which is taken, too. Returns whether it was there."""
        at = self._held.find(opening)
        text = self._held[: at if at >= 0 else len(self._held) - overlap(self._held, [opening])]
        self._held = self._held[len(text) :]
        if text:
            found.append(Part(text))
        if at >= 0:
            self._held = self._held[len(opening) :]
        return at >= 0
