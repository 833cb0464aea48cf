"""What the engine asks of those who guess how sequences go on. Their guesses never change a token, only the speed."""

from ..chunk import Chunk
from ..sampling_rules import can_speculate
from ..sequence import Sequence


class Guesser:
    """Guesses nothing. The methods are called in the order of a step, which is theirs below."""

    is_on = False  # a sequence's last token must be known before its next step is scheduled

    def begin(self, sequences: int) -> None:
        """A step of about so many sequences is to be scheduled."""

    def propose(self, sequence: Sequence) -> list[int]:  # noqa: ARG002
        """Tokens that may follow, or as many others, which ``fill`` replaces. The scheduler may take fewer."""
        return []

    def start(self, sequence: Sequence) -> None:
        """A sequence begins to run in the slot that it has."""

    def fill(self, chunks: list[Chunk]) -> None:
        """The step is about to be launched: the last moment for guesses."""

    def end(self, tokens: int, seconds: float) -> None:
        """The step is over: what was read meanwhile, and how long it took."""

    def reset(self) -> None:
        """Forget what was measured: the warm-up is nobody's traffic."""


class NgramGuesser(Guesser):
    """Guesses what followed the text's last tokens before."""

    is_on = True

    def __init__(self, most: int) -> None:
        """``most`` guesses for a sequence in a step."""
        self._most = most

    def propose(self, sequence: Sequence) -> list[int]:
        """From the text so far."""
        return sequence.ngrams.guess(sequence.tokens, self._most) if can_speculate(sequence.sampling) else []
