"""The page tables of the sequences that run, by slot on the host, and what of them a step brings to the device."""

import numpy as np


class PageTables:
    """Rows by slot. Only what is new of a sequence's pages is written, and can be asked for.

    Attributes:
        entries: int32 [slots, max_pages].
        places, pages: what has changed since ``forget_changes``: places in the flat entries, and what is there now.
    """

    def __init__(self, slots: int, max_pages: int) -> None:
        self.entries = np.zeros((slots, max_pages), np.int32)
        self._right = [0] * slots  # entries of a row that are right
        self.forget_changes()

    def start(self, slot: int) -> None:
        """Another sequence has the slot."""
        self._right[slot] = 0

    def update(self, slot: int, computed: int, pages: list[int]) -> None:
        """Take in a sequence's pages. ``computed``: those that are full, and so the same as before."""
        # A page of rejected guesses may have been taken back and another come in its place.
        first = min(self._right[slot], computed)
        if first < len(pages):
            self.entries[slot, first : len(pages)] = pages[first:]
            self._right[slot] = len(pages)
            place = slot * self.entries.shape[1]
            self.places.extend(range(place + first, place + len(pages)))
            self.pages.extend(pages[first:])

    def forget_changes(self) -> None:
        """They are on their way."""
        self.places: list[int] = []
        self.pages: list[int] = []
