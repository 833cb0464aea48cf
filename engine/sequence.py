"""One generation as the engine sees it: tokens, and how far they are computed."""

from dataclasses import dataclass, field
from typing import NamedTuple

from .messages import FinishReason, SamplingParams, Submit


class SequenceKey(NamedTuple):
    """Names a sequence: the worker's connection and its id there."""

    connection: int
    request_id: int


@dataclass(eq=False)
class Sequence:
    """Prompt and generated tokens of one generation. Two lengths explain it: ``computed`` and ``total``."""

    key: SequenceKey
    tokens: list[int]  # prompt, then generated
    prompt_tokens: int
    sampling: SamplingParams
    arrival: float  # time.monotonic(), seconds
    computed: int = 0  # tokens whose KV is in the pages
    pages: list[int] = field(default_factory=list)
    penalty_row: int = -1  # row of the counts table; -1: none
    was_started: bool = False
    finish_reason: FinishReason | None = None

    @classmethod
    def of(cls, connection: int, submit: Submit, arrival: float) -> "Sequence":
        return cls(
            key=SequenceKey(connection, submit.request_id),
            tokens=submit.prompt_ids + submit.emitted_ids,
            prompt_tokens=len(submit.prompt_ids),
            sampling=submit.sampling,
            arrival=arrival,
        )

    @property
    def total(self) -> int:
        """Tokens known: prompt and generated."""
        return len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def append(self, token: int) -> None:
        """Take a sampled token and decide whether it is the last (length first, as TGI does: contract 7.5)."""
        self.tokens.append(token)
        if self.generated >= self.sampling.max_new_tokens:
            self.finish_reason = "length"
        elif token in self.sampling.stop_token_ids:
            self.finish_reason = "eos_token"
