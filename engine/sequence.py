"""One generation as the engine sees it: tokens, and how far they are computed."""

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from .messages import USUAL, FinishReason, PromptScores, SamplingParams, Scheduling, Submit
from .queue_order import Rank, rank_of
from .speculation.ngram import NgramIndex


class SequenceKey(NamedTuple):
    """Names a sequence: the worker's connection and its id there."""

    connection: int
    request_id: int


@dataclass(eq=False)
class Sequence:
    """Prompt and generated tokens of one generation.

    Three lengths explain it: ``cached`` (found in the prefix cache), ``computed`` (KV present) and ``total``.
    """

    key: SequenceKey
    tokens: list[int]  # prompt, then generated
    prompt_tokens: int
    sampling: SamplingParams
    arrival: float  # here: time.monotonic(), seconds
    scheduling: Scheduling = USUAL
    computed: int = 0  # tokens whose KV is in the pages, or will be by the steps that are launched
    # Tokens that launched steps sample and nobody has read yet: up by 1 at launch, down by 1 when one is read. When a
    # step is scheduled it is 0 or 1; between its launch and the reading of the step before, 2.
    in_flight: int = 0
    adapter: int = 0  # slot of its adapter; 0: none
    cached: int = 0  # prompt tokens found in the prefix cache when it first ran
    pages: list[int] = field(default_factory=list)
    page_keys: list[bytes] = field(default_factory=list)  # of its first full pages, as far as they were needed
    root_key: bytes = b""  # parent of its first page's key; prefix_cache.py
    registered_pages: int = 0  # of its first pages: those that the prefix cache has been told of
    ngrams: NgramIndex = field(default_factory=NgramIndex)
    slot: int = -1  # its own among 0 .. max_sequences - 1 while it runs; -1: it doesn't
    prompt_scores: PromptScores = field(default_factory=PromptScores)  # if they are wanted
    was_started: bool = False
    finish_reason: FinishReason | None = None
    max_total: int = field(init=False)  # prompt and the most tokens it may generate
    rank: Rank = field(init=False)  # the least runs first, and is preempted last

    def __post_init__(self) -> None:
        self.max_total = self.prompt_tokens + self.sampling.max_new_tokens
        if self.scheduling.arrival is None:
            self.scheduling = replace(self.scheduling, arrival=self.arrival)
        self.rank = rank_of(self.scheduling, self.key)

    @classmethod
    def of(cls, connection: int, submit: Submit, arrival: float) -> "Sequence":
        return cls(
            key=SequenceKey(connection, submit.request_id),
            tokens=submit.prompt_ids + submit.emitted_ids,
            prompt_tokens=len(submit.prompt_ids),
            sampling=submit.sampling,
            arrival=arrival,
            scheduling=submit.scheduling,
        )

    def resume(self) -> Submit:
        """What goes on with it from what is known."""
        prompt, emitted = self.tokens[: self.prompt_tokens], self.tokens[self.prompt_tokens :]
        return Submit(self.key.request_id, prompt, self.sampling, emitted, self.scheduling, replayed=True)

    @property
    def deadline(self) -> float:
        """time.monotonic() at which it fails if it isn't over."""
        return self.scheduling.deadline

    @property
    def total(self) -> int:
        """Tokens that exist: known ones and those in flight."""
        return len(self.tokens) + self.in_flight

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return self.total - self.computed

    @property
    def generated(self) -> int:
        """Generated tokens that are known."""
        return len(self.tokens) - self.prompt_tokens

    def append(self, token: int) -> None:
        """Take a sampled token and decide whether it is the last (length first, as TGI does)."""
        self.tokens.append(token)
        if self.generated >= self.sampling.max_new_tokens:
            self.finish_reason = "length"
        elif token in self.sampling.stop_token_ids:
            self.finish_reason = "eos_token"
