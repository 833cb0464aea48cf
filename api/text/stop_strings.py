"""Stop strings: where generated text must end.

TGI looks whether the text ends with a stop string after each token, so it misses one that ends inside a token, and it
leaves the stop string in the text. Here a stop string is found wherever it ends. On the native routes the text is cut
right behind it: their clients expect it to stay. On OpenAI's it is cut in front, so what may be the beginning of a stop
string is held back until it is known.
"""

from collections.abc import Sequence


class StopStrings:
    """Finds the stop string that ends first in text that comes in pieces, and says which text may be shown.

    Attributes:
        found: a stop string was there; nothing is shown after it. which: that one.
    """

    def __init__(self, stops: Sequence[str], keep: bool = True) -> None:
        """``keep``: the stop string is part of what is shown."""
        self._stops = stops
        self._keep = keep
        self._longest = max((len(stop) for stop in stops), default=1) - 1
        self._tail = ""  # end of the text so far, too short to hold a whole stop string
        self.found = False
        self.which: str | None = None

    def feed(self, piece: str) -> str:
        """The text that may be shown once ``piece`` has come."""
        if not self._stops or not piece:
            return piece
        text = self._tail + piece
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        shown = len(self._tail) if self._keep else 0  # of ``text``, before this piece
        if ends:
            self.found = True
            end, start = min(ends)  # of those that end first the longest
            self.which = text[start:end]
            self._tail = ""
            return text[shown : end if self._keep else start]
        if self._keep:
            self._tail = text[-self._longest :] if self._longest else ""
            return piece
        held = self._possible_beginning(text)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]

    def feed_special(self, text: str) -> str:
        """Like ``feed`` for a special token, whose own text is never shown: what was held back if it ends nothing."""
        if not self._stops:
            return ""
        held = self._tail
        shown = self.feed(text)
        if self.found:
            return "" if self._keep else shown[: len(held)]
        self._tail = ""
        return "" if self._keep else held

    def flush(self) -> str:
        """What is still held back, at the end of the text."""
        held, self._tail = self._tail, ""
        return "" if self._keep or self.found else held

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop string begins with."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stops):
                return length
        return 0
