"""Where a sequence goes: to what was computed, to room, never to an engine that is away."""

import random

import pytest

from headwater.api.engine_client.router import MOST_FULLER, PrefixRecord, ReplicaState, choose, page_keys

PAGE = 16


def states(*sequences: int, down: tuple[int, ...] = ()) -> list[ReplicaState]:
    return [ReplicaState(count, 8, index not in down) for index, count in enumerate(sequences)]


def chosen(states: list[ReplicaState], found: list[int]) -> set[int]:
    return {choose(states, found, random.Random(seed)) for seed in range(50)}


def test_a_beginning_goes_where_it_was_computed() -> None:
    assert chosen(states(3, 2, 2), [4, 0, 0]) == {0}
    assert chosen(states(1, 2, 0), [1, 3, 2]) == {1}


def test_an_engine_that_is_much_fuller_is_left_alone_with_what_it_has() -> None:
    most = int(MOST_FULLER * 8)
    assert chosen(states(most, 0), [9, 0]) == {0}
    assert chosen(states(most + 1, 0), [9, 0]) == {1}


def test_an_engine_that_is_away_gets_nothing() -> None:
    assert chosen(states(0, 5, 5, down=(0,)), [9, 0, 0]) == {1, 2}
    assert chosen(states(0, 7, down=(0,)), [0, 0]) == {1}


def test_nobody_gets_what_no_engine_is_there_for() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose(states(0, down=(0,)), [0], random.Random())


def test_of_two_at_random_the_emptier_is_taken() -> None:
    assert chosen(states(5, 1, 3), [0, 0, 0]) == {1, 2}, "never the fullest"
    sent = [0] * 8
    draw = random.Random(1)
    for _ in range(800):
        sent[choose(states(*sent), [0] * 8, draw)] += 1
    assert max(sent) - min(sent) <= 4


def test_equal_beginnings_have_equal_keys() -> None:
    text = list(range(100))
    keys = page_keys(text, PAGE, b"")
    assert len(keys) == 6
    other = page_keys([*text[:40], 7, *text[41:]], PAGE, b"")
    assert [a == b for a, b in zip(keys, other, strict=True)] == [True, True, False, False, False, False]
    assert not set(keys) & set(page_keys(text, PAGE, b"an adapter"))


def test_a_record_forgets_the_tail_of_what_was_not_asked_for_longest() -> None:
    record = PrefixRecord(8)
    first, second = (page_keys([start + i for i in range(6 * PAGE)], PAGE, b"") for start in (0, 1000))
    record.add(first)
    assert record.found(first) == 6
    record.add(second)
    assert (record.found(first), record.found(second)) == (2, 6)
    record.clear()
    assert record.found(second) == 0
