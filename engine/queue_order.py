"""In which order sequences run, and give way when pages are short: a pure function of what each brings with it.

A sequence is ranked by its arrival, moved by ``600 s * p / (10 + |p|)`` for its priority p: 55 s for 1, 300 s for 10,
and never 600 s. Waiting counts for everybody alike, so the order of two sequences never changes, whenever it is asked
for. Of equal priorities the earlier one is first. A lower priority comes first among those that arrive within a moment
of each other, and nobody is overtaken by who came 1200 s later: that is the bound on starving.
"""

from typing import NamedTuple

from .messages import Scheduling

MOST_MOVED_S = 600.0  # what no priority reaches: of the order of the longest answers
_HALF_AT = 10  # the priority that is moved by half of it


class Rank(NamedTuple):
    """Compares: the least runs first. No two sequences have the same."""

    place_s: float  # the arrival, moved
    arrival_s: float
    key: tuple[int, int]  # connection and request id: names the sequence


def moved_s(priority: int) -> float:
    """Seconds by which a sequence of that priority is taken to have arrived later."""
    return MOST_MOVED_S * priority / (_HALF_AT + abs(priority))


def rank_of(scheduling: Scheduling, key: tuple[int, int]) -> Rank:
    """The rank of the sequence that is named ``key``, whose arrival is known."""
    assert scheduling.arrival is not None
    return Rank(scheduling.arrival + moved_s(scheduling.priority), scheduling.arrival, key)
