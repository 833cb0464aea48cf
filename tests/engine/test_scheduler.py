"""The scheduler under random schedules, with a pure function for a model: the next token is a hash of those before."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.engine.messages import SamplingParams, Submit
from headwater.engine.pages import OutOfPages, PagePool
from headwater.engine.scheduler import Scheduler
from headwater.engine.sequence import Sequence

PAGE_SIZE = 4
ARRIVALS = st.lists(
    st.tuples(st.integers(1, 24), st.integers(1, 12), st.integers(0, 30), st.none() | st.integers(0, 20)), max_size=12
)


def next_token(tokens: list[int]) -> int:
    return hash(tuple(tokens)) % 1000


def answer(prompt_ids: list[int], count: int) -> list[int]:
    tokens = list(prompt_ids)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt_ids) :]


@settings(deadline=None, max_examples=300)
@given(
    arrivals=ARRIVALS,  # prompt tokens, new tokens, step of arrival, steps until aborted
    pages=st.integers(9, 30),  # 36 tokens, the longest sequence here, are 9 pages
    max_sequences=st.integers(1, 6),
    spare=st.integers(0, 12),
)
def test_every_sequence_ends_right_and_no_page_is_lost(
    arrivals: list[tuple[int, int, int, int | None]], pages: int, max_sequences: int, spare: int
) -> None:
    budget = max_sequences + spare
    scheduler = Scheduler(PagePool(pages + 1), PAGE_SIZE, max_sequences, budget)
    sequences = [
        Sequence.of(0, Submit(i, [i] * prompt, SamplingParams(new, greedy=True)), time.monotonic())
        for i, (prompt, new, _, _) in enumerate(arrivals)
    ]
    kv: dict[int, list[int]] = {}  # page -> tokens computed there: what attention would read
    first_steps: list[int] = []
    aborted = set()
    for step in range(2000):
        for i, (_, _, arrival, patience) in enumerate(arrivals):
            if arrival == step:
                scheduler.add(sequences[i])
            if patience is not None and arrival + patience == step and scheduler.remove(sequences[i].key):
                aborted.add(i)
        if not scheduler.has_work:
            if step > max((arrival for _, _, arrival, _ in arrivals), default=0):
                break
            continue
        scheduled = scheduler.schedule()
        assert 0 < sum(chunk.count for chunk in scheduled.chunks) <= budget
        assert len(scheduled.chunks) <= max_sequences
        assert max(Counter(id(chunk.sequence) for chunk in scheduled.chunks).values()) == 1
        first_steps += [s.key.request_id for s in scheduled.admitted if s.key.request_id not in first_steps]
        for chunk in scheduled.chunks:
            sequence = chunk.sequence
            for position in range(chunk.start, chunk.start + chunk.count):
                page = sequence.pages[position // PAGE_SIZE]
                kv.setdefault(page, [0] * PAGE_SIZE)[position % PAGE_SIZE] = sequence.tokens[position]
            sequence.computed += chunk.count
            if sequence.pending == 0:
                seen = [kv[sequence.pages[p // PAGE_SIZE]][p % PAGE_SIZE] for p in range(sequence.total)]
                sequence.append(next_token(seen))
                if sequence.finish_reason is not None:
                    scheduler.remove(sequence.key)
        scheduler.check()
    assert not scheduler.has_work, "a sequence starved"
    assert scheduler.pool.num_free == pages
    for i, (prompt, new, _, _) in enumerate(arrivals):
        if i not in aborted:
            assert sequences[i].tokens[prompt:] == answer([i] * prompt, new)
    by_arrival = sorted(first_steps, key=lambda i: (arrivals[i][2], i))
    assert first_steps == by_arrival, "first come, first served"


def test_a_decoding_sequence_is_never_kept_waiting_by_a_prompt() -> None:
    scheduler = Scheduler(PagePool(100), PAGE_SIZE, max_sequences=2, budget=8)
    decoding = Sequence.of(0, Submit(0, [1, 2], SamplingParams(50, greedy=True)), 0.0)
    scheduler.add(decoding)
    for step in range(12):
        if step == 1:
            scheduler.add(Sequence.of(0, Submit(1, [3] * 60, SamplingParams(5, greedy=True)), 0.0))
        for chunk in scheduler.schedule().chunks:
            chunk.sequence.computed += chunk.count
            if chunk.sequence.pending == 0:
                chunk.sequence.append(7)
        assert decoding.generated == step + 1


def test_pages_are_handed_out_all_or_none() -> None:
    pool = PagePool(5)
    first = pool.take(3)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 free"):
        pool.take(2)
    assert pool.num_free == 1
    assert 0 not in first + pool.take(1), "the trash page is nobody's"
    pool.release(first)
    assert pool.num_free == 3
    with pytest.raises(AssertionError, match="released by one who doesn't own it"):
        pool.release(first[:1])
