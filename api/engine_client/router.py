"""Which engine a sequence goes to: where its prompt's beginning was computed, unless that one is much fuller.

Pure functions of what a worker knows: how much it has where, and which beginnings it sent there. Every worker decides
by itself: of several, each knows its own share.
"""

import hashlib
import random
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

# Pages that must be found more than elsewhere: below, what is saved is less than a step.
WORTH_PAGES = 1
# How much fuller than the emptiest an engine may be, as a part of a step's sequences, and still get what it has the
# beginning of: half a step more to share its time with costs about what a prompt of a few hundred tokens does.
MOST_FULLER = 0.5
_KEY_BYTES = 16


class ReplicaState(NamedTuple):
    """What a worker knows of an engine when it routes."""

    sequences: int  # that it has, waiting and running, as far as the worker knows
    max_sequences: int  # of a step
    is_up: bool

    @property
    def fullness(self) -> float:
        """Steps' worth of sequences."""
        return self.sequences / max(1, self.max_sequences)


def page_keys(prompt_ids: Sequence[int], page_size: int, salt: bytes) -> list[bytes]:
    """One for each full page of a prompt: of all tokens up to its end, and of ``salt``: adapter and cache salt."""
    keys, key = [], hashlib.blake2b(salt, digest_size=_KEY_BYTES).digest()
    packed, page_bytes = array("q", prompt_ids).tobytes(), 8 * page_size
    for end in range(page_bytes, len(packed) + 1, page_bytes):
        key = hashlib.blake2b(packed[end - page_bytes : end], digest_size=_KEY_BYTES, key=key).digest()
        keys.append(key)
    return keys


class PrefixRecord:
    """Which pages were sent to an engine; those that were not asked for longest are forgotten first."""

    def __init__(self, capacity: int) -> None:
        """``capacity``: pages that the engine's cache has room for."""
        self._capacity = capacity
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def add(self, keys: Sequence[bytes]) -> None:
        """A prompt was sent there."""
        for key in reversed(keys):  # the tail of a text goes before its head
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def found(self, keys: Sequence[bytes]) -> int:
        """How many of a prompt's pages, from its beginning, are there."""
        for count, key in enumerate(keys):
            if key not in self._keys:
                return count
        return len(keys)

    def clear(self) -> None:
        """The engine has another cache."""
        self._keys.clear()


def choose(states: Sequence[ReplicaState], found: Sequence[int], draw: random.Random) -> int:
    """The number of the engine for a sequence.

    Args:
        states: of all engines, at least one of which is up.
        found: pages of the prompt that each has.
        draw: ties, and who is compared: of two at random the emptier, so that workers that decide at once don't all
            choose the same one ("the power of two choices").
    """
    up = [index for index, state in enumerate(states) if state.is_up]
    best = max(up, key=lambda index: (found[index], -states[index].fullness))
    others = max((found[index] for index in up if index != best), default=0)
    emptiest = min(states[index].fullness for index in up)
    if found[best] - others >= WORTH_PAGES and states[best].fullness <= emptiest + MOST_FULLER:
        return best
    pair = draw.sample(up, 2) if len(up) > 1 else up
    return min(pair, key=lambda index: states[index].fullness)
