"""The scheduler under random schedules: every sequence comes to the tokens it would come to alone."""

import math
from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.engine.messages import SamplingParams, Scheduling, Submit
from headwater.engine.pages import PagePool
from headwater.engine.scheduler import Scheduler
from headwater.engine.sequence import Sequence

from .pure_engine import STOP, Guesser, PureEngine, PureStore, answer

PAGE_SIZE = 4


class Arrival(NamedTuple):
    shared: int  # tokens at the front of the prompt that others have, too
    own: int
    owner: int  # token of the rest: few values, so that those are shared by some
    new: int
    step: int
    patience: int | None  # steps until it is aborted
    timeout: int  # steps; 0: none
    stops: bool
    priority: int
    prompt_logprobs: bool

    @property
    def prompt_ids(self) -> list[int]:
        # One token over and over: pages with equal tokens that differ in nothing but what stands before them.
        return [1] * self.shared + [self.owner] * self.own


ARRIVAL = st.builds(
    Arrival,
    shared=st.integers(1, 16),
    own=st.integers(0, 8),
    owner=st.integers(2, 4),
    new=st.integers(1, 12),
    step=st.integers(0, 25),
    patience=st.none() | st.integers(0, 20),
    timeout=st.just(0) | st.integers(1, 25),
    stops=st.booleans(),
    priority=st.sampled_from([0, 0, 0, -1, 2]),
    prompt_logprobs=st.sampled_from([False, False, False, True]),
)


@settings(deadline=None, max_examples=1500)
@given(
    arrivals=st.lists(ARRIVAL, max_size=12),
    pages=st.integers(9, 30),  # 36 tokens, the longest sequence here, are 9 pages
    max_sequences=st.integers(1, 6),
    spare=st.integers(0, 30),
    prefix_cache=st.booleans(),
    disk=st.booleans(),
    mode=st.sampled_from(["one by one", "overlap", "speculation"]),
    seed=st.integers(0, 1000),
)
def test_every_sequence_ends_right_and_no_page_is_lost(
    arrivals: list[Arrival],
    pages: int,
    max_sequences: int,
    spare: int,
    prefix_cache: bool,
    disk: bool,
    mode: str,
    seed: int,
) -> None:
    budget = max_sequences + spare
    scheduler = Scheduler(
        PagePool(pages + 1), PAGE_SIZE, max_sequences, budget,
        prefix_cache=prefix_cache, propose=Guesser(seed) if mode == "speculation" else None,
    )  # fmt: skip
    engine = PureEngine(scheduler, PAGE_SIZE, overlap=mode == "overlap")
    if disk:
        store = PureStore(seed)
        store.engine = engine
        scheduler.keep(store)
    sequences = [
        Sequence.of(
            0,
            Submit(
                index,
                arrival.prompt_ids,
                SamplingParams(
                    arrival.new,
                    greedy=True,
                    stop_token_ids=(STOP,) if arrival.stops else (),
                    prompt_logprobs=arrival.prompt_logprobs,
                ),
                scheduling=Scheduling(
                    arrival.priority, deadline=arrival.step + arrival.timeout if arrival.timeout else math.inf
                ),
            ),
            float(arrival.step),
        )
        for index, arrival in enumerate(arrivals)
    ]
    dropped = set()
    for step in range(2000):
        for index, arrival in enumerate(arrivals):
            if arrival.step == step:
                scheduler.add(sequences[index])
            if arrival.patience is not None and arrival.step + arrival.patience == step:
                dropped.update(s.key.request_id for s in [scheduler.remove(sequences[index].key)] if s is not None)
        expired = scheduler.expire(float(step))
        assert all(sequence.deadline <= step for sequence in expired)
        dropped.update(sequence.key.request_id for sequence in expired)
        assert not any(s.deadline <= step and s.key in scheduler for s in sequences), "a deadline was missed"
        if scheduler.has_work:
            rows = engine.rows
            engine.step()
            assert engine.rows - rows <= budget
            assert len(engine.last_chunks) <= max_sequences
            assert all(begun.rank < other.rank for begun in engine.last_admitted for other in scheduler.waiting)
            assert all(kept.rank < other.rank for other in engine.last_preempted for kept in scheduler.running)
            assert max(Counter(id(c.sequence) for c in engine.last_chunks).values(), default=1) == 1
        elif step > 25:
            break
    assert not scheduler.has_work, "a sequence starved"
    assert scheduler.pool.num_free == pages
    assert prefix_cache or scheduler.cached_tokens == scheduler.pool.num_cached == 0
    assert scheduler.cached_tokens == sum(sequence.cached for sequence in sequences)
    for index, arrival in enumerate(arrivals):
        want = answer(arrival.prompt_ids, arrival.new, arrival.stops)
        got = sequences[index].tokens[len(arrival.prompt_ids) :]
        assert got == (want[: len(got)] if index in dropped else want)
        assert not arrival.prompt_logprobs or sequences[index].cached == 0
    for priority in {arrival.priority for arrival in arrivals}:
        started = [s.key.request_id for s in engine.started if s.scheduling.priority == priority]
        assert started == sorted(started, key=lambda index: (arrivals[index].step, index)), "first come, first served"
