"""An engine with a pure function for a model: the next token is a hash of those before. Its KV cache is simulated.

What a row writes to its slot is a hash of the text up to it. Every row asserts that what it would read is its own text,
so a page that is shared wrongly, is stale, or is written to by two sequences shows at once.
"""

import random

from headwater.engine.chunk import Chunk
from headwater.engine.scheduler import Scheduler
from headwater.engine.sequence import Sequence

VOCAB_SIZE = 6  # small, so that texts repeat
STOP = 0


def digests(tokens: list[int]) -> list[int]:
    """For each position a number that depends on all tokens up to it."""
    result, digest = [], 1
    for token in tokens:
        digest = hash((digest, token))
        result.append(digest)
    return result


def next_token(digest: int) -> int:
    return digest % VOCAB_SIZE


def answer(prompt_ids: list[int], count: int, stops: bool) -> list[int]:
    """What every sequence has to come to, whatever its company."""
    tokens = list(prompt_ids)
    for _ in range(count):
        tokens.append(next_token(digests(tokens)[-1]))
        if stops and tokens[-1] == STOP:
            break
    return tokens[len(prompt_ids) :]


class Guesser:
    """Proposes the right tokens, but for some that are wrong."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, sequence: Sequence) -> list[int]:
        right = answer(sequence.tokens, self._random.randint(0, 9), stops=False)
        return [token if self._random.random() < 0.8 else (token + 1) % VOCAB_SIZE for token in right]


class PureStore:
    """What left the pages of a PureEngine, by key; some of it is lost."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._saved: dict[bytes, list[int | None]] = {}
        self.engine: PureEngine | None = None

    def has(self, key: bytes) -> bool:
        return key in self._saved

    def load(self, key: bytes, page: int) -> bool:
        assert self.engine is not None
        if self._random.random() < 0.2:
            del self._saved[key]
            return False
        self.engine.write_page(page, self._saved[key])
        return True

    def save(self, page: int, key: bytes) -> None:
        assert self.engine is not None
        if self._random.random() < 0.8:
            self._saved[key] = self.engine.read_page(page)


class PureEngine:
    """Runs what the scheduler says. With ``overlap``, a step is launched before the tokens of the last one are read."""

    def __init__(self, scheduler: Scheduler, page_size: int, *, overlap: bool = False) -> None:
        self.scheduler = scheduler
        self.started: list[Sequence] = []  # in order
        self.rows = 0
        self.last_chunks: list[Chunk] = []
        self.last_admitted: list[Sequence] = []
        self.last_preempted: list[Sequence] = []
        self._page_size = page_size
        self._overlap = overlap
        self._kv: dict[int, int] = {}
        self._sampled: dict[int, int] = {}  # slot -> token: where the device finds one that nobody has read yet
        self._unread: list[tuple[Chunk, list[int]]] = []

    def step(self) -> None:
        scheduled = self.scheduler.schedule()
        self.last_admitted, self.last_preempted = scheduled.admitted, scheduled.preempted
        for sequence in scheduled.admitted:
            if not sequence.was_started:
                sequence.was_started = True
                self.started.append(sequence)
        launched = self._launch(scheduled.chunks)
        if self._overlap:
            launched, self._unread = self._unread, launched
        for chunk, tokens in launched:
            self._read(chunk, tokens)
        self.scheduler.check()

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()
            assert self.rows < 10_000, "no end"

    def read_page(self, page: int) -> list[int | None]:
        return [self._kv.get(page * self._page_size + index) for index in range(self._page_size)]

    def write_page(self, page: int, content: list[int | None]) -> None:
        self._kv.update({page * self._page_size + i: value for i, value in enumerate(content) if value is not None})

    def _slots(self, sequence: Sequence, end: int) -> list[int]:
        size = self._page_size
        return [sequence.pages[position // size] * size + position % size for position in range(end)]

    def _launch(self, chunks: list[Chunk]) -> list[tuple[Chunk, list[int]]]:
        self.last_chunks = chunks
        texts = []
        for chunk in chunks:  # all rows write before any reads, as in a layer of the model
            sequence, end = chunk.sequence, chunk.start + chunk.count
            unread = [self._sampled[sequence.slot]] if sequence.in_flight else []
            text = digests(sequence.tokens + unread + chunk.drafts)
            texts.append(text)
            for position, slot in enumerate(self._slots(sequence, end)):
                if position >= chunk.start:
                    self._kv[slot] = text[position]
        results = []
        for chunk, text in zip(chunks, texts, strict=True):
            sequence, end = chunk.sequence, chunk.start + chunk.count
            assert [self._kv.get(slot) for slot in self._slots(sequence, end)] == text[:end], "a row reads another's KV"
            self.rows += chunk.count
            sequence.computed += chunk.count - len(chunk.drafts)
            if chunk.samples:
                tokens = [next_token(digest) for digest in text[end - 1 - len(chunk.drafts) : end]]
                self._sampled[sequence.slot] = tokens[0]
                sequence.in_flight += 1
                results.append((chunk, tokens))
        return results

    def _read(self, chunk: Chunk, tokens: list[int]) -> None:
        sequence = chunk.sequence
        sequence.in_flight -= 1
        if sequence.key not in self.scheduler:
            return  # it ended, or was dropped, after this row was launched
        for index, token in enumerate(tokens):
            sequence.append(token)
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence.key)
                return
            if index >= len(chunk.drafts) or chunk.drafts[index] != token:
                return
            sequence.computed += 1
