"""Guesses of a small model, for the model that is served to check.

Leviathan et al. 2023, "Fast inference from transformers via speculative decoding" (arXiv 2211.17192), but for the
check: there a guess is kept by chance, so that the distribution stays. Here it is right if it is what the sampler draws
anyway. So the draft draws as the sampler does, with the request's own parameters and noise: where the two distributions
are alike, they draw the same token.

The draft has pages of its own under the same ids, so page tables, sharing and freeing are the scheduler's alone. What
it has computed may lag behind, or be missing in pages that others filled while it was off: it catches up when guesses
are wanted. Nothing here changes a token.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from ..chunk import Chunk
from ..limits import Limits
from ..runner import Launched, Runner
from ..sampling_rules import can_speculate
from ..sequence import Sequence
from .guesser import Guesser
from .payoff import Payoff

_UNKNOWN = 0  # what stands for a guess until it is made


@dataclass
class _Drafted:
    """A sequence as the draft sees it: the same lists of tokens and pages, computed as far as the draft is."""

    sequence: Sequence
    guessed: list[int] = field(
        default_factory=list
    )  # the last that count as computed; right or not, that is still to be seen

    def settle(self) -> None:
        """Keep what was computed of guesses that were right."""
        own = self.sequence
        own.computed -= len(self.guessed)
        for token in self.guessed:
            if token != own.tokens[own.computed]:
                break
            own.computed += 1
        self.guessed = []


class Draft(Guesser):
    """Guesses by a small model."""

    def __init__(self, runner: Runner, limits: Limits, most: int, *, always: bool = False) -> None:
        """
        Args:
            runner: of the draft, over pages like the model's.
            limits: the runner's.
            most: guesses for a sequence in a step.
            always: guess even where it doesn't pay.
        """
        self._runner = runner
        self._most = most
        self._max_rows = limits.max_rows
        self._max_tokens = limits.max_total_tokens  # of a sequence, as far as the draft can read
        self._page_size = limits.page_size
        self._drafted: list[_Drafted | None] = [None] * limits.max_sequences  # by slot; None: it gets no guesses
        self._keys: dict[int, bytes] = {}  # of the pages that the draft has computed whole
        self._under_way: Launched | None = None  # what was launched last
        self._payoff = None if always else Payoff()
        self._is_measured = False  # the step says how fast steps are: all of its sequences decode
        self.is_on = True

    def begin(self, sequences: int) -> None:
        """Decide whether there are guesses in a step of about so many sequences."""
        self.is_on = self._payoff is None or self._payoff.wants(sequences)

    def propose(self, sequence: Sequence) -> list[int]:
        """Placeholders: what a step has room for must be known before any guess is made."""
        if not self.is_on or not can_speculate(sequence.sampling) or sequence.total + self._most > self._max_tokens:
            return []
        return [_UNKNOWN] * self._most

    def start(self, sequence: Sequence) -> None:
        """Take in a sequence that has its slot; what the slot held before is forgotten."""
        self._drafted[sequence.slot] = None
        if can_speculate(sequence.sampling):
            sampling = replace(sequence.sampling, top_n=0, raw_logprobs=False, prompt_logprobs=False)
            own = Sequence(
                sequence.key, sequence.tokens, sequence.prompt_tokens, sampling, sequence.arrival,
                pages=sequence.pages, page_keys=sequence.page_keys, slot=sequence.slot,
            )  # fmt: skip
            self._drafted[sequence.slot] = _Drafted(own)
            self._runner.start(own)

    def fill(self, chunks: list[Chunk]) -> None:
        """Replace the placeholders, and compute the rows of the step's prompts.

        A sequence that the draft must first catch up with gets no guesses.
        """
        self._is_measured = all(chunk.count == 1 + len(chunk.drafts) for chunk in chunks)
        if not self.is_on:
            return
        first: list[Chunk] = []  # the draft's own
        asking: list[tuple[Chunk, _Drafted]] = []  # the step's, and what the draft has of its sequence
        rows = self._max_rows
        for chunk in chunks:
            drafted = self._drafted[chunk.sequence.slot]
            known = chunk.start + chunk.count - len(chunk.drafts)
            # A decoding row without guesses is computed when there are some again. Right guesses are known by now.
            if drafted is None or not (chunk.drafts or chunk.count > 1) or known > self._max_tokens:
                continue
            drafted.settle()
            own = drafted.sequence
            self._find(own, known)
            missing = known - own.computed
            count = min(missing, rows)
            rows -= count
            if count < missing:
                chunk.count -= len(chunk.drafts)
                chunk.drafts = []
            if count:
                first.append(self._advance(own, count, samples=bool(chunk.drafts)))
            if chunk.drafts:
                asking.append((chunk, drafted))
            self._is_measured &= count <= 2  # as after a step whose guesses were all right: the last has no row yet
        if first:
            self._run(first, asking)

    def end(self, tokens: int, seconds: float) -> None:
        """What the step gave, and how long it took."""
        if self._payoff is not None and self._is_measured:
            self._payoff.note(tokens, seconds)

    def reset(self) -> None:
        """Forget what was measured: the warm-up is nobody's traffic."""
        self._payoff = None if self._payoff is None else Payoff()

    def _find(self, own: Sequence, known: int) -> None:
        """Skip whole pages that the draft has computed for others, but for one token: the one to go on from."""
        page, at = divmod(own.computed, self._page_size)
        while at == 0 and (page + 1) * self._page_size < known and page < len(own.page_keys):
            if self._keys.get(own.pages[page]) != own.page_keys[page]:
                break
            page += 1
            own.computed = page * self._page_size
            own.registered_pages = page

    def _advance(self, own: Sequence, count: int, *, samples: bool) -> Chunk:
        """The next ``count`` rows of a sequence, which count as computed from now on."""
        chunk = Chunk(own, own.computed, count)
        chunk.samples = samples
        own.computed += count
        for page in own.pages[chunk.start // self._page_size : -(-own.computed // self._page_size)]:
            self._keys.pop(page, None)  # of what it held before
        # There are keys of known tokens only: a page that ends in guesses has none yet.
        whole = min(own.computed // self._page_size, len(own.page_keys))
        for index in range(own.registered_pages, whole):
            self._keys[own.pages[index]] = own.page_keys[index]
            own.registered_pages = index + 1
        return chunk

    def _run(self, first: list[Chunk], asking: list[tuple[Chunk, _Drafted]]) -> None:
        """A small step for each guess. The next is launched before the tokens of the last are read, as the engine's."""
        if self._under_way is not None:
            self._runner.collect(self._under_way)
        step = self._under_way = self._runner.launch(first)
        asked, place = asking, 0  # whose guess the step draws, and which
        while asked:
            following = [(chunk, drafted) for chunk, drafted in asked if len(chunk.drafts) > place + 1]
            for _, drafted in asked:
                drafted.sequence.in_flight += 1
            if following:
                rows = [self._advance(drafted.sequence, 1, samples=True) for _, drafted in following]
                self._under_way = self._runner.launch(rows)
            tokens = self._runner.collect(step).token_ids[: len(asked)].tolist()
            for (chunk, _), token in zip(asked, tokens, strict=True):
                chunk.drafts[place] = token
            step, asked, place = self._under_way, following, place + 1
        for chunk, drafted in asking:
            drafted.sequence.in_flight = 0
            drafted.guessed = chunk.drafts[:-1]
