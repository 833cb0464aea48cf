"""Whether guesses pay: tokens per second with them and without, measured as the engine runs.

What a guess costs depends on the number of sequences: one alone waits for the weights, and rows beside its own cost
next to nothing; many fill the arithmetic units, where a guess costs as much as a token. So each power of two of
sequences is measured by itself. Whatever is faster runs; the other is tried now and then, more and more seldom while it
loses.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, field

# Steps. A run is long enough to see how many guesses are right; a try costs an eighth of the runs between two at first,
# and at last next to nothing.
RUN, TRY = 32, 8
MOST_PATIENCE = 64  # runs between two tries

logger = logging.getLogger(__name__)


@dataclass
class _Load:
    """One power of two of sequences."""

    best: bool = True  # guesses are the better choice, as far as is known
    guesses: bool = True  # in the run under way: ``best``, or the other if that is tried
    left: int = RUN  # steps of the run under way
    tokens: int = 0  # of that run
    seconds: float = 0.0
    speeds: dict[bool, float] = field(default_factory=dict)  # tokens/s in the last run with guesses and without
    runs: int = 0  # since the last try
    patience: int = 1

    def note(self, tokens: int, seconds: float) -> bool:
        """A step of the run under way. Returns whether the better choice is another from now on."""
        self.tokens += tokens
        self.seconds += seconds
        self.left -= 1
        if self.left:
            return False
        self.speeds[self.guesses] = self.tokens / max(self.seconds, 1e-9)
        was_try, before = self.guesses != self.best, self.best
        if was_try:
            if self.speeds[not self.best] > self.speeds[self.best]:
                self.best, self.patience = not self.best, 1
            else:
                self.patience = min(2 * self.patience, MOST_PATIENCE)
        self.runs = 0 if was_try else self.runs + 1
        is_due = self.runs >= self.patience
        self.guesses = self.best != is_due
        self.left, self.tokens, self.seconds = TRY if is_due else RUN, 0, 0.0
        return self.best != before


class Payoff:
    """Decides before each step; is told after it what the step gave."""

    def __init__(self) -> None:
        self._loads: defaultdict[int, _Load] = defaultdict(_Load)
        self._load = self._loads[1]
        self._sequences = 1
        self._is_first = True  # the step under way is the first of its kind: tokens of another kind are read in it

    def wants(self, sequences: int) -> bool:
        """Whether there should be guesses in a step of so many sequences; where none runs yet, of one."""
        before, sequences = self._load.guesses, max(sequences, 1)
        self._sequences, self._load = sequences, self._loads[sequences.bit_length()]
        self._is_first = self._load.guesses != before
        return self._load.guesses

    def note(self, tokens: int, seconds: float) -> None:
        """What that step gave and how long it took."""
        load = self._load
        if not self._is_first and load.note(tokens, seconds):
            most = (1 << self._sequences.bit_length()) - 1
            logger.info(
                "guesses of the draft model are %s with up to %d sequences: %.0f tokens/s with them, %.0f without",
                "on" if load.best else "off", most, load.speeds[True], load.speeds[False],
            )  # fmt: skip
