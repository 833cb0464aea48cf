from headwater.engine.messages import Failed, SamplingParams, Stats, Step, Submit, Tokens
from headwater.engine.quarantine import Quarantine
from headwater.engine.sequence import SequenceKey

STATS = Stats(*[0] * 8, 0.0, 0.0)
GREEDY = SamplingParams(9, greedy=True)


def with_suspects(*keys: tuple[int, int], timeout_s: float = 0.0) -> Quarantine:
    trials = Quarantine()
    for key in keys:
        trials.add(SequenceKey(*key), Submit(key[1], [1], GREEDY, timeout_s=timeout_s))
    return trials


def begun(trials: Quarantine) -> tuple[int, int] | None:
    return trials.begin()[0] if trials.active and trials.current is None else None


def tokens(request_id: int, count: int, finish: str | None = None) -> Step:
    return Step(STATS, tokens=[Tokens(request_id, [5] * count, [0.0] * count, finish)])  # type: ignore[arg-type]


def test_one_at_a_time_until_it_got_two_tokens() -> None:
    trials = with_suspects((0, 1), (0, 2))
    assert begun(trials) == (0, 1)
    assert begun(trials) is None
    trials.observe(0, tokens(1, 1))
    trials.observe(0, tokens(9, 5))  # another one's
    trials.observe(8, tokens(1, 5))  # another worker's
    assert begun(trials) is None
    trials.observe(0, tokens(1, 1))
    assert begun(trials) == (0, 2)


def test_its_end_is_the_trials_end() -> None:
    trials = with_suspects((0, 1), (0, 2), (0, 3), (1, 4), (0, 5), (1, 6), (0, 7))
    begun(trials)
    trials.observe(0, tokens(1, 1, "length"))
    assert begun(trials) == (0, 2)
    trials.observe(0, Step(STATS, failed=[Failed(2, "", "timeout")]))
    assert begun(trials) == (0, 3)
    trials.drop(SequenceKey(0, 3))
    assert begun(trials) == (1, 4)
    trials.drop(SequenceKey(0, 5))
    trials.drop_all(1)
    assert begun(trials) == (0, 7)
    trials.drop_all(0)
    assert begun(trials) is None
    assert trials.current is None


def test_its_time_runs_while_it_waits() -> None:
    trials = with_suspects((0, 1), timeout_s=1e-9)
    trials.hold(SequenceKey(0, 2), Submit(2, [1], GREEDY, timeout_s=500.0))
    assert trials.begin()[1].timeout_s == 0.001, "over, and not unlimited"
    ((_, other),) = trials.release()
    assert 0.001 < other.timeout_s < 500.0


def test_others_wait_until_the_last_trial_is_over() -> None:
    trials = with_suspects((0, 1))
    assert trials.active
    for request_id in (2, 3, 4):
        trials.hold(SequenceKey(0, request_id), Submit(request_id, [1], GREEDY))
    begun(trials)
    assert trials.active
    trials.drop(SequenceKey(0, 3))
    trials.observe(0, tokens(1, 2))
    assert not trials.active
    assert [key.request_id for key, _ in trials.release()] == [2, 4]
    assert trials.release() == []
