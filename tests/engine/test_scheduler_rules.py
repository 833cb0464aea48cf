"""What the scheduler does in situations that are easy to name: order, prefix cache, overlap, deadlines, speculation."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest

from headwater.engine.messages import USUAL, SamplingParams, Scheduling, Submit
from headwater.engine.pages import PagePool
from headwater.engine.scheduler import Scheduler
from headwater.engine.sequence import Sequence

from .pure_engine import VOCAB_SIZE, PureEngine, answer

PAGE_SIZE = 4


def a_scheduler(
    pages: int = 100,
    max_sequences: int = 8,
    budget: int = 100,
    prefix_cache: bool = True,
    propose: Callable[[Sequence], list[int]] | None = None,
) -> Scheduler:
    pool = PagePool(pages + 1)
    return Scheduler(pool, PAGE_SIZE, max_sequences, budget, prefix_cache=prefix_cache, propose=propose)


def a_sequence(
    name: int, prompt_ids: list[int], new: int = 1, *, scheduling: Scheduling = USUAL, **sampling: bool
) -> Sequence:
    return Sequence.of(0, Submit(name, prompt_ids, SamplingParams(new, greedy=True, **sampling), [], scheduling), 100.0)


def answers(engine: PureEngine, *sequences: Sequence) -> list[list[int]]:
    for sequence in sequences:
        engine.scheduler.add(sequence)
    engine.run()
    return [sequence.tokens[sequence.prompt_tokens :] for sequence in sequences]


def test_a_decoding_sequence_is_never_kept_waiting_by_a_prompt() -> None:
    engine = PureEngine(a_scheduler(max_sequences=2, budget=8), PAGE_SIZE)
    decoding = a_sequence(0, [1, 2], new=50)
    engine.scheduler.add(decoding)
    for step in range(12):
        if step == 1:
            engine.scheduler.add(a_sequence(1, [3] * 60, new=5))
        engine.step()
        assert decoding.generated == step + 1


def test_slots_are_each_running_sequences_own() -> None:
    engine = PureEngine(a_scheduler(max_sequences=2), PAGE_SIZE)
    first, second, third = (a_sequence(i, [i], new=new) for i, new in enumerate([2, 9, 9]))
    for sequence in (first, second, third):
        engine.scheduler.add(sequence)
    engine.step()
    assert {first.slot, second.slot} == {0, 1}
    assert third.slot == -1
    slot = first.slot
    engine.step()
    engine.step()
    assert (first.slot, third.slot) == (-1, slot)


# --- prefix cache


def test_a_prompt_is_not_computed_twice() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE)
    prompt = list(range(1, 11))
    first, second = a_sequence(0, prompt), a_sequence(1, prompt)
    assert answers(engine, first) == answers(engine, second) == [answer(prompt, 1, False)]
    assert (first.cached, second.cached, engine.scheduler.cached_tokens) == (0, 8, 8)
    assert engine.rows == 10 + 2


def test_the_last_token_of_a_cached_prompt_is_computed_in_a_page_of_its_own() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8]  # two pages to the token
    first, second = a_sequence(0, prompt, new=3), a_sequence(1, prompt, new=3)
    engine.scheduler.add(first)
    engine.step()
    engine.scheduler.add(second)
    engine.step()
    assert second.cached == 4
    assert second.pages[0] == first.pages[0]
    assert second.pages[1] != first.pages[1]


def test_copies_that_come_together_are_computed_once() -> None:
    engine = PureEngine(a_scheduler(max_sequences=4, budget=12), PAGE_SIZE)
    prompt = list(range(1, 23))
    copies = [a_sequence(i, prompt) for i in range(4)]
    assert answers(engine, *copies) == [answer(prompt, 1, False)] * 4
    assert [copy.cached for copy in copies] == [0, 20, 20, 20]
    assert engine.rows == 22 + 3 * 2


def test_an_answer_is_cached_for_the_next_turn() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE)
    [said] = answers(engine, a_sequence(0, [1, 2, 3], new=10))
    follow_up = a_sequence(1, [1, 2, 3, *said, 5, 5], new=2)
    answers(engine, follow_up)
    assert follow_up.cached == 12  # of the 13 tokens so far, the last was never computed


def test_an_answer_is_cached_when_its_tokens_are_read_late() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE, overlap=True)
    [said] = answers(engine, a_sequence(0, [1, 2, 3], new=10))
    follow_up = a_sequence(1, [1, 2, 3, *said, 5, 5], new=2)
    answers(engine, follow_up)
    assert follow_up.cached == 12


def test_emitted_tokens_that_are_found_are_not_counted_as_prompt() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE)
    [said] = answers(engine, a_sequence(0, [1, 2, 3], new=10))
    resumed = Sequence.of(0, Submit(1, [1, 2, 3], SamplingParams(10, greedy=True), said[:8]), 0.0)
    engine.rows = 0
    assert answers(engine, resumed) == [said]
    assert resumed.cached == 3
    assert engine.rows == 3 + 1  # the 11 tokens but for two pages, then one to decode


def test_prompt_logprobs_need_every_row() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE)
    prompt = list(range(1, 11))
    full = a_sequence(1, prompt, prompt_logprobs=True)
    answers(engine, a_sequence(0, prompt), full, a_sequence(2, prompt))
    assert full.cached == 0
    assert engine.rows == 10 + 10 + 2


def test_without_the_cache_nothing_is_shared_or_kept() -> None:
    engine = PureEngine(a_scheduler(prefix_cache=False), PAGE_SIZE)
    copies = [a_sequence(i, [1] * 10) for i in range(3)]
    answers(engine, *copies)
    assert engine.rows == 30
    assert engine.scheduler.cached_tokens == engine.scheduler.pool.num_cached == 0


def test_a_preempted_sequence_finds_its_own_pages() -> None:
    engine = PureEngine(a_scheduler(pages=5), PAGE_SIZE)
    old, new = a_sequence(0, [1] * 7, new=5), a_sequence(1, [2] * 9, new=4)
    engine.scheduler.add(old)
    engine.scheduler.add(new)
    for _ in range(3):
        engine.step()
    assert engine.scheduler.preemptions == 1
    rows = engine.rows
    engine.run()
    assert [s.tokens[s.prompt_tokens :] for s in (old, new)] == [answer([1] * 7, 5, False), answer([2] * 9, 4, False)]
    assert engine.rows - rows < new.total, "all of it was computed again"
    assert new.cached == engine.scheduler.cached_tokens == 0, "its own pages are no hit"


def test_a_prompt_needs_room_only_for_what_is_not_cached() -> None:
    engine = PureEngine(a_scheduler(pages=10), PAGE_SIZE)
    running, sharing, other = (a_sequence(i, [i != 2] * 24, new=3) for i in range(3))
    for sequence in (running, sharing, other):
        engine.scheduler.add(sequence)
    engine.step()
    assert engine.scheduler.running == [running, sharing]  # 6 pages, and 1 of its own


def test_pages_that_are_found_are_not_also_room() -> None:
    # Of 6 pages 4 are cached and 2 empty. Who finds the 4 and needs 3 more would have to take one of its own.
    engine = PureEngine(a_scheduler(pages=6), PAGE_SIZE)
    answers(engine, a_sequence(0, [1] * 17))
    running, finder = a_sequence(1, [2] * 3, new=9), a_sequence(2, [1] * 17 + [2] * 3, new=4)
    engine.scheduler.add(running)
    engine.scheduler.add(finder)
    engine.step()
    assert finder in engine.scheduler.running
    engine.run()
    assert finder.tokens[20:] == answer([1] * 17 + [2] * 3, 4, False)


# --- one-step overlap


def test_a_sequence_whose_last_token_is_in_flight_waits_for_it() -> None:
    engine = PureEngine(a_scheduler(), PAGE_SIZE, overlap=True)
    sequence = a_sequence(0, [1, 2, 3], new=2)
    engine.scheduler.add(sequence)
    engine.step()
    assert (sequence.generated, sequence.in_flight, sequence.pending) == (0, 1, 1)
    engine.step()
    assert (sequence.generated, sequence.in_flight, sequence.total) == (1, 1, 5)
    engine.step()
    assert engine.last_chunks == []
    assert sequence.finish_reason == "length"
    assert not engine.scheduler.has_work
    assert engine.rows == 4


def test_a_sequence_preempted_with_a_token_in_flight_runs_again_when_that_is_known() -> None:
    scheduler = a_scheduler(pages=2, prefix_cache=False)
    old, new = a_sequence(0, [1] * 4, new=4), a_sequence(1, [2] * 3, new=4)
    scheduler.add(old)
    scheduler.add(new)
    for chunk in scheduler.schedule().chunks:
        chunk.sequence.computed += chunk.count
        chunk.sequence.in_flight += 1
    assert scheduler.schedule().preempted == [new]
    scheduler.remove(old.key)
    assert scheduler.schedule().chunks == []
    new.in_flight -= 1
    new.append(5)
    [chunk] = scheduler.schedule().chunks
    assert (chunk.sequence, chunk.start, chunk.count, chunk.samples) == (new, 0, 4, True)


# --- priorities


def test_the_lowest_priority_is_admitted_first_and_the_highest_gives_way() -> None:
    engine = PureEngine(a_scheduler(pages=6, max_sequences=2), PAGE_SIZE)
    batch, usual, urgent = (a_sequence(i, [i] * 7, new=9, scheduling=Scheduling(10 - 10 * i)) for i in range(3))
    engine.scheduler.add(batch)
    engine.scheduler.add(usual)
    engine.step()
    engine.scheduler.add(urgent)
    seen = []
    while engine.scheduler.has_work:
        engine.step()
        seen += [(sequence.key.request_id, "preempted") for sequence in engine.last_preempted]
        seen += [(sequence.key.request_id, "admitted") for sequence in engine.last_admitted]
    # Who runs is not put back for one who waits; where pages are short, who is last in order is.
    assert seen == [(0, "preempted"), (2, "admitted"), (0, "admitted")]
    assert [s.tokens[7:] for s in (batch, usual, urgent)] == [answer([i] * 7, 9, False) for i in range(3)]


def test_a_prompt_that_has_begun_takes_pages_from_those_behind_it() -> None:
    engine = PureEngine(a_scheduler(pages=8, max_sequences=3, budget=8), PAGE_SIZE)
    behind = a_sequence(0, [1] * 3, new=20, scheduling=Scheduling(1))
    first = a_sequence(1, [2] * 24, new=5)
    engine.scheduler.add(behind)
    engine.step()
    engine.scheduler.add(first)
    while first.finish_reason is None:
        engine.step()
        assert first not in engine.last_preempted
        assert sum(chunk.count for chunk in engine.last_chunks) <= 8
    assert engine.scheduler.preemptions == 1
    engine.run()
    assert first.tokens[24:] == answer([2] * 24, 5, False)


# --- deadlines


def test_sequences_past_their_deadline_leave_wherever_they_are() -> None:
    engine = PureEngine(a_scheduler(max_sequences=2), PAGE_SIZE)
    deadlines = [103.0, math.inf, 101.5, 109.0]
    sequences = [a_sequence(i, [1], new=9, scheduling=Scheduling(deadline=t)) for i, t in enumerate(deadlines)]
    for sequence in sequences:
        engine.scheduler.add(sequence)
    engine.step()
    assert engine.scheduler.expire(101.4) == []
    assert engine.scheduler.expire(103.0) == [sequences[0], sequences[2]]
    assert engine.scheduler.expire(103.0) == []
    engine.step()
    assert engine.scheduler.running == [sequences[1], sequences[3]]
    assert engine.scheduler.expire(200.0) == [sequences[3]]


# --- speculation


def right(sequence: Sequence) -> list[int]:
    return answer(sequence.tokens, 4, stops=False)


def wrong(sequence: Sequence) -> list[int]:
    return [(token + 1) % VOCAB_SIZE for token in right(sequence)]


def drafts(engine: PureEngine) -> list[int]:
    return [len(chunk.drafts) for chunk in engine.last_chunks]


def test_right_guesses_save_steps() -> None:
    engine = PureEngine(a_scheduler(propose=right), PAGE_SIZE)
    sequence = a_sequence(0, [1, 2, 3], new=13)
    engine.scheduler.add(sequence)
    seen = []
    for _ in range(4):
        engine.step()
        seen.append((len(engine.last_chunks[0].drafts), sequence.generated))
    # Never more than could be kept: the row of the last guess draws a token, too.
    assert seen == [(0, 1), (4, 6), (4, 11), (1, 13)]
    assert sequence.tokens[3:] == answer([1, 2, 3], 13, stops=False)


def test_guesses_get_what_is_left_of_the_budget() -> None:
    engine = PureEngine(a_scheduler(budget=12, propose=right), PAGE_SIZE)
    for name in range(3):
        engine.scheduler.add(a_sequence(name, [name] * 3, new=30))
    engine.step()
    engine.step()
    assert drafts(engine) == [4, 4, 1]
    engine.scheduler.add(a_sequence(3, [7] * 8, new=1))
    engine.step()
    assert drafts(engine) == [1, 0, 0, 0], "decoding rows and prompts come first"


def test_guesses_take_only_free_pages_and_give_them_back() -> None:
    engine = PureEngine(a_scheduler(pages=3, propose=wrong), PAGE_SIZE)
    old, new = a_sequence(0, [1] * 3, new=6), a_sequence(1, [2] * 2, new=3)
    engine.scheduler.add(old)
    engine.scheduler.add(new)
    engine.step()
    engine.step()
    assert drafts(engine) == [4, 1], "the old one has two pages, the new one the rest of its own"
    engine.step()
    assert engine.scheduler.preemptions == 0
    engine.run()
    assert engine.scheduler.preemptions == 0
    assert [s.tokens[s.prompt_tokens :] for s in (old, new)] == [answer([1] * 3, 6, False), answer([2] * 2, 3, False)]


def test_a_page_of_guesses_is_no_reason_to_preempt() -> None:
    engine = PureEngine(a_scheduler(pages=3, propose=lambda s: wrong(s) if s.key.request_id else []), PAGE_SIZE)
    old, new = a_sequence(0, [1] * 2, new=6), a_sequence(1, [2] * 1, new=9)
    engine.scheduler.add(old)
    engine.scheduler.add(new)
    for _ in range(3):
        engine.step()
    assert (old.total, len(old.pages), new.total, len(new.pages)) == (5, 1, 4, 2)
    engine.step()
    assert (len(old.pages), len(new.pages), engine.scheduler.preemptions) == (2, 1, 0)


def test_guesses_are_never_found_by_others() -> None:
    engine = PureEngine(a_scheduler(propose=wrong), PAGE_SIZE)
    prompt = [1, 2, 3]
    engine.scheduler.add(a_sequence(0, prompt, new=2))
    engine.scheduler.add(a_sequence(1, prompt, new=9))
    engine.step()
    engine.step()
    guess = engine.last_chunks[1].drafts
    asked = a_sequence(2, [*prompt, answer(prompt, 1, False)[0], *guess, 1], new=1)
    engine.scheduler.add(asked)
    engine.step()
    assert asked.cached == 4
    assert len(guess) == 4


# --- the integrity check


class Parts(NamedTuple):
    scheduler: Scheduler
    a: Sequence
    b: Sequence


def take_over_key(parts: Parts) -> None:
    """``a`` claims that its page, which ``b``'s text doesn't name, holds ``b``'s text."""
    parts.a.tokens[:4] = parts.b.tokens[:4]
    parts.a.page_keys[0] = parts.b.page_keys[0]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda parts: parts.a.pages.pop(), "references without an owner"),
        (lambda parts: parts.b.pages.append(parts.a.pages[0]), "references without an owner"),
        (lambda parts: parts.scheduler.pool.release([parts.a.pages[0]]), "references without an owner"),
        (lambda parts: parts.a.pages.append(parts.a.pages[0]), "a sequence has a page twice"),
        (lambda parts: setattr(parts.a, "slot", parts.b.slot), "a slot is lost or has two owners"),
        (lambda parts: parts.a.tokens.__setitem__(0, 9), "a page key isn't that of its tokens"),
        (take_over_key, "another text's key"),
        (lambda parts: parts.scheduler.running.remove(parts.a), "references without an owner"),
        (lambda parts: parts.scheduler.waiting.clear(), "a sequence is lost"),
    ],
)
def test_the_integrity_check_sees(damage: Callable[[Parts], object], complaint: str) -> None:
    scheduler = a_scheduler(max_sequences=2)
    engine = PureEngine(scheduler, PAGE_SIZE)
    a, b = a_sequence(0, [1] * 6, new=9), a_sequence(1, [2] + [1] * 5, new=9)
    for sequence in (a, b, a_sequence(2, [3], new=9)):
        scheduler.add(sequence)
    engine.step()
    scheduler.check()
    damage(Parts(scheduler, a, b))
    with pytest.raises(AssertionError, match=complaint):
        scheduler.check()
