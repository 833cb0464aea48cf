"""Stop strings: where generated text must end.

TGI looks whether the text ends with a stop string after each token, so it misses one that ends inside a token, and it
leaves the stop string in the text. Here a stop string is found wherever it ends, the text is cut right behind it, and,
as clients of the native routes expect, the stop string stays.
"""

from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string in text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._tail_length = max((len(stop) for stop in stops), default=1) - 1
        self._tail = ""  # end of the text so far, too short to hold the longest stop string

    def feed(self, piece: str) -> int | None:
        """Characters of ``piece`` up to the end of the stop string that ends first, or None if none ends in it."""
        if not self._stops or not piece:
            return None
        text = self._tail + piece
        ends = [start + len(stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            return min(ends) - len(self._tail)
        self._tail = text[-self._tail_length :] if self._tail_length else ""
        return None
