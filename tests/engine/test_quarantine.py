from headwater.engine.messages import Failed, SamplingParams, Stats, Step, Submit, Tokens
from headwater.engine.quarantine import Quarantine
from headwater.engine.sequence import SequenceKey

STATS = Stats(*[0] * 8, 0.0, 0.0)
GREEDY = SamplingParams(9, greedy=True)


def with_suspects(*keys: tuple[int, int]) -> Quarantine:
    quarantine = Quarantine()
    for key in keys:
        quarantine.add(SequenceKey(*key), Submit(key[1], [1], GREEDY))
    return quarantine


def begun(quarantine: Quarantine) -> tuple[int, int] | None:
    return quarantine.begin()[0] if quarantine.active and quarantine.current is None else None


def tokens(request_id: int, count: int, finish: str | None = None) -> Step:
    return Step(STATS, tokens=[Tokens(request_id, [5] * count, [0.0] * count, finish)])  # type: ignore[arg-type]


def test_one_at_a_time_until_it_got_two_tokens() -> None:
    quarantine = with_suspects((0, 1), (0, 2))
    assert begun(quarantine) == (0, 1)
    assert begun(quarantine) is None
    quarantine.observe(0, tokens(1, 1))
    quarantine.observe(0, tokens(9, 5))  # another one's
    quarantine.observe(8, tokens(1, 5))  # another worker's
    assert begun(quarantine) is None
    quarantine.observe(0, tokens(1, 1))
    assert begun(quarantine) == (0, 2)


def test_its_end_is_the_trials_end() -> None:
    quarantine = with_suspects((0, 1), (0, 2), (0, 3), (1, 4), (0, 5), (1, 6), (0, 7))
    begun(quarantine)
    quarantine.observe(0, tokens(1, 1, "length"))
    assert begun(quarantine) == (0, 2)
    quarantine.observe(0, Step(STATS, failed=[Failed(2, "", "timeout")]))
    assert begun(quarantine) == (0, 3)
    quarantine.drop(SequenceKey(0, 3))
    assert begun(quarantine) == (1, 4)
    quarantine.drop(SequenceKey(0, 5))
    quarantine.drop_all(1)
    assert begun(quarantine) == (0, 7)
    quarantine.drop_all(0)
    assert begun(quarantine) is None
    assert quarantine.current is None


def test_others_wait_until_the_last_trial_is_over() -> None:
    quarantine = with_suspects((0, 1))
    assert quarantine.active
    for request_id in (2, 3, 4):
        quarantine.hold(SequenceKey(0, request_id), Submit(request_id, [1], GREEDY))
    begun(quarantine)
    assert quarantine.active
    quarantine.drop(SequenceKey(0, 3))
    quarantine.observe(0, tokens(1, 2))
    assert not quarantine.active
    assert [key.request_id for key, _ in quarantine.release()] == [2, 4]
    assert quarantine.release() == []
