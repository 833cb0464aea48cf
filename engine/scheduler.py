"""Who runs in a step: one token budget, decoding first, then prompts in chunks, in the order of queue_order.py."""

import math
from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from .chunk import Chunk, Scheduled
from .kv_events import KVEvents
from .pages import OutOfPages, PagePool
from .prefix_cache import PageStore, PrefixCache
from .sequence import Sequence, SequenceKey

_rank = attrgetter("rank")


def _decodes(sequence: Sequence) -> bool:
    """Its next step has one row. Where the last token it may have is in flight, nothing is left but to read that."""
    total = len(sequence.tokens) + sequence.in_flight
    return total - sequence.computed == 1 and total < sequence.max_total


class Scheduler:
    """Waiting and running sequences, and the pages and slots that the running ones hold.

    A step may be scheduled while the tokens of the one before are in flight. Who launches a step adds each chunk's
    count to ``computed`` and, where it samples, 1 to ``in_flight``; who reads a token takes that 1 away and appends it.
    """

    def __init__(
        self,
        pool: PagePool,
        page_size: int,
        max_sequences: int,
        budget: int,
        *,
        prefix_cache: bool = True,
        propose: Callable[[Sequence], list[int]] | None = None,
    ) -> None:
        """``budget`` is rows of one step, at least ``max_sequences`` so that every running sequence can decode.

        ``propose`` guesses the next tokens of a decoding sequence that has none in flight; who launches the step may
        replace the guesses or take them back.
        """
        assert budget >= max_sequences, f"budget {budget} < {max_sequences} sequences"
        self.pool = pool
        self._page_size = page_size
        self._max_sequences = max_sequences
        self._budget = budget
        self._cache = PrefixCache(pool, page_size) if prefix_cache else None
        self._propose = propose
        # Both by rank.
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.running_max_tokens = 0  # to which those may grow, prompts included
        self._by_key: dict[SequenceKey, Sequence] = {}
        self._free_slots = list(reversed(range(max_sequences)))
        self._next_deadline = math.inf  # nobody's is earlier; it may be that of one who has left
        self.preemptions = 0  # counter
        self.cached_tokens = 0  # counter: prompt tokens found in the prefix cache, once for each sequence

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its total length must fit the cache when it is alone."""
        insort(self.waiting, sequence, key=_rank)
        self._by_key[sequence.key] = sequence
        self._next_deadline = min(self._next_deadline, sequence.deadline)

    def remove(self, key: SequenceKey) -> Sequence | None:
        """Forget a sequence, finished or not, and free its pages. None if it isn't known.

        Its rows may still be in flight: they write to its pages before any step that is scheduled from now on.
        """
        sequence = self._by_key.pop(key, None)
        if sequence is None:
            return None
        if sequence.slot < 0:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._release(sequence)
        return sequence

    def expire(self, now: float) -> list[Sequence]:
        """Remove and return the sequences whose deadline is not after ``now``, waiting or running."""
        if now < self._next_deadline:
            return []
        expired = [sequence for sequence in self._by_key.values() if sequence.deadline <= now]
        for sequence in expired:
            self.remove(sequence.key)
        self._next_deadline = min((sequence.deadline for sequence in self._by_key.values()), default=math.inf)
        return expired

    def keep(self, store: PageStore) -> None:
        """From now on, pages of the prefix cache that leave memory go there, and come back."""
        if self._cache is not None:
            self._cache.keep(store)

    def publish(self, events: KVEvents) -> None:
        """From now on, tell of the prefix cache's pages that come and go. Nothing runs."""
        if self._cache is not None:
            self._cache.publish(events)

    def __contains__(self, key: SequenceKey) -> bool:
        return key in self._by_key

    def holds(self, sequence: Sequence) -> bool:
        """Whether this very sequence, and no later one of the same key, is waiting or running."""
        return self._by_key.get(sequence.key) is sequence

    def keys_of(self, connection: int) -> list[SequenceKey]:
        """Sequences that a worker's connection submitted."""
        return [key for key in self._by_key if key.connection == connection]

    @property
    def has_work(self) -> bool:
        return bool(self._by_key)

    def schedule(self) -> Scheduled:
        """Choose the rows of the next step and give them pages.

        Never empty while there is work, unless tokens are in flight and must be read first.
        """
        preempted: list[Sequence] = []
        decoding, prompt = self._go_on(preempted)
        chunks = decoding + prompt
        budget = self._budget - sum(chunk.count for chunk in chunks)
        if self._cache is not None:
            # Who is admitted now may share pages that this step fills: a layer writes all rows before it reads any.
            # Preempting is over, so what is promised will be computed.
            for chunk in chunks:
                self._cache.register(chunk.sequence, chunk.start + chunk.count)
        admitted: list[Sequence] = []
        if not preempted:
            admitted, budget = self._admit(chunks, budget)
            if self._propose is not None:
                self._speculate(decoding, budget)
        assert chunks or not self.has_work or any(s.in_flight for s in self._by_key.values()), "nothing scheduled"
        return Scheduled(chunks, admitted, preempted)

    def check(self) -> None:
        """Assert the invariants that hold between steps."""
        self.pool.check([sequence.pages for sequence in self.running])
        for sequence in self.waiting:
            assert (sequence.pages, sequence.slot, sequence.computed) == ([], -1, 0), "a waiting sequence has something"
        for sequence in self.running:
            assert 0 <= sequence.computed <= min(sequence.total, len(sequence.pages) * self._page_size)
            if self._cache is not None:
                self._cache.check(sequence)
        assert sum(sequence.pending > 1 for sequence in self.running) <= 1, "two prompts have begun"
        for some in (self.running, self.waiting):
            assert some == sorted(some, key=_rank), "not in order"
        assert self.running_max_tokens == sum(sequence.max_total for sequence in self.running)
        slots = [sequence.slot for sequence in self.running] + self._free_slots
        assert sorted(slots) == list(range(self._max_sequences)), "a slot is lost or has two owners"
        known = {sequence.key: sequence for sequence in [*self.running, *self.waiting]}
        assert known == self._by_key, "a sequence is lost"
        assert len(known) == len(self.running) + len(self.waiting), "a sequence waits and runs"
        assert self._next_deadline <= min((s.deadline for s in known.values()), default=math.inf)

    def _go_on(self, preempted: list[Sequence]) -> tuple[list[Chunk], list[Chunk]]:
        """The rows of those that run: one for each that decodes, and what that leaves for the prompt that has begun.

        Nobody who is streaming waits for somebody else's prompt. There is one such prompt at most, as nobody is
        admitted while it takes all of the budget; who comes before it in order waits for that, too.
        """
        decoding: list[Chunk] = []
        prompt: list[Chunk] = []
        for sequence in self.running:  # who is preempted meanwhile is taken from its end
            computed = sequence.computed
            if _decodes(sequence):
                count, chunks = 1, decoding
            elif sequence.pending > 1:
                spare = self._budget - sum(map(_decodes, self.running))
                count, chunks = min(sequence.pending, spare), prompt
            else:
                continue
            full = computed + count > len(sequence.pages) * self._page_size
            if full and not self._make_room(sequence, count, preempted):
                break
            chunks.append(Chunk(sequence, computed, count))
        return decoding, prompt

    def _admit(self, chunks: list[Chunk], budget: int) -> tuple[list[Sequence], int]:
        """Let waiting sequences in, in order: while the head of the queue waits for pages, nobody behind it goes first.

        Returns them and what is left of the budget.
        """
        admitted = []
        while self.waiting and budget > 0 and self._free_slots:
            sequence = self.waiting[0]
            found = self._cache.find(sequence) if self._cache is not None else []
            # Room for the whole prompt, not only its first chunk: else it would be preempted before its first token.
            free = self.pool.num_free - self.pool.count_free(found)
            # One that was preempted with a token in flight needs to know that first.
            if sequence.in_flight or self._pages_for(sequence.total) - len(found) > free:
                break
            self._start(sequence, found)
            count = min(sequence.pending, budget)
            self._grow(sequence, count)
            chunk = Chunk(sequence, sequence.computed, count)
            if self._cache is not None:
                self._cache.register(sequence, chunk.start + count)
            chunks.append(chunk)
            admitted.append(sequence)
            budget -= count
        return admitted, budget

    def _start(self, sequence: Sequence, found: list[int]) -> None:
        """From waiting to running, with the pages that the prefix cache has for it."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_rank)
        self.running_max_tokens += sequence.max_total
        sequence.slot = self._free_slots.pop()
        self.pool.share(found)
        sequence.pages = found
        if self._cache is not None:
            self._cache.load(sequence)
        sequence.registered_pages = len(sequence.pages)
        sequence.computed = len(sequence.pages) * self._page_size
        if not sequence.was_started:
            sequence.cached = min(sequence.computed, sequence.prompt_tokens)
            self.cached_tokens += sequence.cached

    def _speculate(self, decoding: list[Chunk], budget: int) -> None:
        """Add guesses to decoding rows, with what is left of budget and pages.

        Last of all: a step full of prompt rows is bound by arithmetic, and a guess costs it as much as a prompt token.
        """
        assert self._propose is not None
        for chunk in decoding:
            sequence = chunk.sequence
            if sequence.in_flight:  # a guess needs to know the token before it
                continue
            positions = (len(sequence.pages) + self.pool.num_free) * self._page_size
            # The last row's token comes after all guesses, so one less than may still be generated.
            room = min(budget, sequence.max_total - sequence.total - 1, positions - sequence.total)
            if room > 0:
                chunk.drafts = self._propose(sequence)[:room]
                chunk.count += len(chunk.drafts)
                self._grow(sequence, chunk.count)
                budget -= len(chunk.drafts)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._page_size)

    def _grow(self, sequence: Sequence, count: int) -> None:
        """Give the sequence pages for ``count`` more tokens. Raises OutOfPages."""
        missing = self._pages_for(sequence.computed + count) - len(sequence.pages)
        if missing > 0:
            sequence.pages += self.pool.take(missing)

    def _make_room(self, sequence: Sequence, count: int, preempted: list[Sequence]) -> bool:
        """Grow a running sequence, preempting the last ones if need be, in the end itself. False: itself."""
        while sequence.slot >= 0:
            try:
                self._grow(sequence, count)
                return True
            except OutOfPages:
                if not self._take_back_guesses():
                    preempted.append(self._preempt_last())
        return False

    def _take_back_guesses(self) -> bool:
        """Free the pages that hold nothing but rejected guesses: they are no reason to preempt anybody."""
        before = self.pool.num_free
        for sequence in self.running:
            needed = self._pages_for(sequence.total)
            self.pool.release(sequence.pages[needed:])
            del sequence.pages[needed:]
        return self.pool.num_free > before

    def _preempt_last(self) -> Sequence:
        """Back into the queue; its tokens are kept and computed again later, or found if still there."""
        sequence = self.running.pop()
        self._release(sequence)
        insort(self.waiting, sequence, key=_rank)
        self.preemptions += 1
        return sequence

    def _release(self, sequence: Sequence) -> None:
        """Take back a sequence's pages and slot. What it has computed can be found again."""
        if self._cache is not None:
            self._cache.register(sequence, sequence.computed)
        self.pool.release(sequence.pages)
        self.running_max_tokens -= sequence.max_total
        self._free_slots.append(sequence.slot)
        sequence.pages = []
        sequence.registered_pages = sequence.computed = 0
        sequence.slot = -1
