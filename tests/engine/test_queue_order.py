"""The order in which sequences run, for any arrivals and priorities."""

from hypothesis import given
from hypothesis import strategies as st

from headwater.engine.messages import Scheduling
from headwater.engine.queue_order import MOST_MOVED_S, Rank, moved_s, rank_of

PRIORITY = st.integers(-(2**31), 2**31 - 1)
ARRIVAL = st.floats(0.0, 1e8)  # three years of a machine
REQUEST = st.builds(
    Scheduling, priority=st.integers(-3, 3) | PRIORITY, arrival=ARRIVAL | st.integers(0, 2000).map(float)
)


def ranks(requests: list[Scheduling]) -> list[Rank]:
    return [rank_of(scheduling, (0, index)) for index, scheduling in enumerate(requests)]


@given(st.lists(REQUEST, max_size=20), PRIORITY)
def test_within_a_priority_the_order_is_that_of_arrival(requests: list[Scheduling], priority: int) -> None:
    same = [Scheduling(priority, arrival=each.arrival) for each in requests]
    assert [rank.key for rank in sorted(ranks(same))] == [
        (0, index) for index, _ in sorted(enumerate(same), key=lambda one: (one[1].arrival or 0.0, one[0]))
    ]


@given(PRIORITY, PRIORITY)
def test_of_those_that_come_together_the_lowest_priority_is_first(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert moved_s(low) <= moved_s(high)
    if max(abs(one), abs(other)) < 10**6:
        assert (moved_s(low) < moved_s(high)) == (low < high)


@given(st.lists(REQUEST, min_size=1, max_size=40), st.floats(1.0, 100.0))
def test_nobody_is_overtaken_by_who_comes_after_the_bound(requests: list[Scheduling], service_s: float) -> None:
    """One server, a sequence at a time: whoever has come by then and ranks first."""
    waiting = sorted(zip(ranks(requests), requests, strict=True), key=lambda one: one[1].arrival or 0.0)
    now, queue, served = 0.0, [], []
    while waiting or queue:
        if not queue:
            now = max(now, waiting[0][1].arrival or 0.0)
        while waiting and (waiting[0][1].arrival or 0.0) <= now:
            queue.append(waiting.pop(0)[0])
        first = min(queue)
        queue.remove(first)
        assert all(first.arrival_s - other.arrival_s < 2 * MOST_MOVED_S for other in queue), "somebody starves"
        served.append(first)
        now += service_s
    assert len(served) == len(set(served)) == len(requests)


def test_the_formula_is_the_documented_one() -> None:
    assert [round(moved_s(priority)) for priority in (-10, -1, 0, 1, 10)] == [-300, -55, 0, 55, 300]
    assert rank_of(Scheduling(1, arrival=100.0), (3, 4)) == (100.0 + 600 / 11, 100.0, (3, 4))
