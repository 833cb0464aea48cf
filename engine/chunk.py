"""What a step does: the rows of each sequence in it."""

from dataclasses import dataclass, field

from .sequence import Sequence


@dataclass(slots=True)
class Chunk:
    """Rows of one sequence in a step: tokens ``start`` to ``start + count``, the last of which may be guesses."""

    sequence: Sequence
    start: int
    count: int  # rows, drafts included
    drafts: list[int] = field(default_factory=list)  # guesses after the last token; each gets a row and is sampled from
    samples: bool = field(init=False)  # it reaches the last token when it is scheduled, so that the next one is drawn

    def __post_init__(self) -> None:
        sequence = self.sequence
        self.samples = self.start + self.count - len(self.drafts) == len(sequence.tokens) + sequence.in_flight


@dataclass
class Scheduled:
    """What a step will do, and who entered and left the running sequences for it."""

    chunks: list[Chunk]
    admitted: list[Sequence]
    preempted: list[Sequence]
