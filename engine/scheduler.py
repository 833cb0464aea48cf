"""Who runs in the next step: one token budget, decoding first, then prompts in chunks, first come, first served."""

from collections import deque
from dataclasses import dataclass

from .pages import OutOfPages, PagePool
from .sequence import Sequence, SequenceKey


@dataclass
class Chunk:
    """Rows of one sequence in a step: tokens ``start`` to ``start + count``."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the last known token, so that the next one is drawn."""
        return self.start + self.count == self.sequence.total


@dataclass
class Scheduled:
    """What a step will do, and who entered and left the running sequences for it."""

    chunks: list[Chunk]
    admitted: list[Sequence]
    preempted: list[Sequence]


class Scheduler:
    """Waiting and running sequences, and the pages that the running ones hold."""

    def __init__(self, pool: PagePool, page_size: int, max_sequences: int, budget: int) -> None:
        """``budget`` is rows of one step, at least ``max_sequences`` so that every running sequence can decode."""
        assert budget >= max_sequences, f"budget {budget} < {max_sequences} sequences"
        self.pool = pool
        self._page_size = page_size
        self._max_sequences = max_sequences
        self._budget = budget
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival
        self._by_key: dict[SequenceKey, Sequence] = {}
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its total length must fit the cache when it is alone."""
        self.waiting.append(sequence)
        self._by_key[sequence.key] = sequence

    def remove(self, key: SequenceKey) -> Sequence | None:
        """Forget a sequence, finished or not, and free its pages. None if it isn't known."""
        sequence = self._by_key.pop(key, None)
        if sequence is None:
            return None
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._release(sequence)
        return sequence

    def __contains__(self, key: SequenceKey) -> bool:
        return key in self._by_key

    def keys_of(self, connection: int) -> list[SequenceKey]:
        """Sequences that a worker's connection submitted."""
        return [key for key in self._by_key if key.connection == connection]

    @property
    def has_work(self) -> bool:
        return bool(self._by_key)

    def schedule(self) -> Scheduled:
        """Choose the rows of the next step and give them pages. Never empty while there is work."""
        budget = self._budget
        chunks: list[Chunk] = []
        preempted: list[Sequence] = []
        # Decoding sequences first: nobody who is streaming waits for somebody else's prompt.
        for sequence in sorted(self.running, key=lambda s: s.pending > 1):
            if budget == 0 or sequence in preempted:
                continue
            count = min(sequence.pending, budget)
            preempted += self._make_room(sequence, count)
            if sequence not in preempted:
                chunks.append(Chunk(sequence, sequence.computed, count))
                budget -= count
        chunks = [chunk for chunk in chunks if chunk.sequence not in preempted]
        admitted = self._admit(chunks, budget) if not preempted else []
        assert chunks or not self.has_work, "work, but nothing scheduled"
        return Scheduled(chunks, admitted, preempted)

    def _admit(self, chunks: list[Chunk], budget: int) -> list[Sequence]:
        """Let waiting sequences in, in order: nobody overtakes the head of the queue while it waits for pages."""
        admitted = []
        while self.waiting and budget > 0 and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            # Room for the whole prompt, not only its first chunk: else it would be preempted before its first token.
            if self._pages_for(sequence.total) > self.pool.num_free:
                break
            self.running.append(self.waiting.popleft())
            admitted.append(sequence)
            count = min(sequence.pending, budget)
            self._grow(sequence, count)
            chunks.append(Chunk(sequence, sequence.computed, count))
            budget -= count
        return admitted

    def check(self) -> None:
        """Assert the invariants that hold between steps."""
        self.pool.check([sequence.pages for sequence in self.running])
        assert all(not sequence.pages for sequence in self.waiting)
        assert len(self._by_key) == len(self.running) + len(self.waiting)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._page_size)

    def _grow(self, sequence: Sequence, count: int) -> None:
        """Give the sequence pages for ``count`` more tokens. Raises OutOfPages."""
        wanted = self._pages_for(sequence.computed + count)
        if wanted > len(sequence.pages):
            sequence.pages += self.pool.take(wanted - len(sequence.pages))

    def _make_room(self, sequence: Sequence, count: int) -> list[Sequence]:
        """Grow a running sequence, preempting the newest ones if need be, at last itself. Returns the preempted."""
        preempted: list[Sequence] = []
        while sequence not in preempted:
            try:
                self._grow(sequence, count)
                break
            except OutOfPages:
                preempted.append(self._preempt_newest())
        return preempted

    def _preempt_newest(self) -> Sequence:
        """Back to the head of the queue; its tokens are kept and computed again later."""
        sequence = self.running.pop()
        self._release(sequence)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1
        return sequence

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages = []
