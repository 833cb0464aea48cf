"""Lengths in tokens, given or drawn: ``128``, ``64-256`` (uniform, ends included) or ``128:32`` (normal)."""

import re

import numpy as np
from msgspec import Struct


class Lengths(Struct, frozen=True):
    """A distribution of lengths; a normal one is cut at 1 and at twice its mean."""

    low: int
    high: int
    deviation: float = 0.0  # 0: uniform

    def draw(self, random: np.random.Generator) -> int:
        if self.deviation == 0:
            return int(random.integers(self.low, self.high + 1))
        mean = (self.low + self.high) / 2
        return int(np.clip(round(random.normal(mean, self.deviation)), self.low, self.high))


def parse_lengths(text: str) -> Lengths:
    """Raises ValueError."""
    match = re.fullmatch(r"(\d+)(?:([-:])(\d+))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r}: lengths are N, LOW-HIGH or MEAN:DEVIATION, in tokens")
    first, kind, second = int(match[1]), match[2], int(match[3] or 0)
    if first < 1 or (kind == "-" and second < first):
        raise ValueError(f"{text!r}: a length is at least 1, and LOW-HIGH ascends")
    if kind == ":" and second > 0:
        return Lengths(1, 2 * first - 1, float(second))
    return Lengths(first, second if kind == "-" else first)
