"""Which request is given up after engines died. Each test is a story of engines, told by what their records say."""

from pathlib import Path

import pytest

from headwater.api.engine_client.poison import POISON, SUSPECT, EngineExit
from headwater.api.engine_client.remote_sequence import RemoteSequence
from headwater.api.launch.exits import Cause
from headwater.engine.flight_recorder import FlightRecord, FlightRecorder, Key
from headwater.engine.messages import Hello, SamplingParams, Tokens

WORKER = 3  # connection
HELLO = Hello("m", "cpu", "cpu", "float32", 8, 64, 8, 16, 99, connection=WORKER)


class NoWaker:
    def wake(self) -> None: ...


class Engines:
    """One after the other, and the generations of one worker."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "engine.flight"
        self._pid = 100
        self._deaths: dict[Cause, tuple[int, ...]] = {"crashed": (), "killed": (), "ended": ()}
        self.live = {
            request_id: RemoteSequence(request_id, [1], SamplingParams(9, greedy=True), NoWaker(), lambda _: None)  # type: ignore[arg-type]
            for request_id in range(4)
        }

    def die(self, in_flight: list[Key], cause: Cause, *, quarantined: Key | None = None) -> list[int]:
        """The engine of now dies, and the next says hello. Returns who is given up."""
        recorder = FlightRecorder(self._path)
        recorder.quarantine(quarantined)
        recorder.begin_step(in_flight)
        end = EngineExit(self._hello(), FlightRecord(self._path))
        self._deaths[cause] += (self._pid,)
        self._pid += 1
        poison = [sequence.request_id for sequence in end.find_poison(self.live.values(), end.cause_by(self._hello()))]
        for request_id in poison:
            del self.live[request_id]
        for sequence in self.live.values():
            sequence.as_submit()
        return poison

    def suspects(self) -> set[int]:
        return {request_id for request_id, sequence in self.live.items() if sequence.suspicion >= SUSPECT}

    def get_tokens(self, request_id: int, count: int) -> None:
        self.live[request_id].extend(Tokens(request_id, [5] * count, [0.0] * count))

    def _hello(self) -> Hello:
        return Hello(**{name: getattr(HELLO, name) for name in HELLO.__struct_fields__} | {
            "pid": self._pid, "crashed": self._deaths["crashed"], "killed": self._deaths["killed"],
        })  # fmt: skip


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    return Engines(tmp_path)


def test_a_crash_in_its_own_quarantine_is_the_second_and_the_last(engines: Engines) -> None:
    batch = [(WORKER, 0), (WORKER, 1), (9, 2)]  # 2 is another worker's
    assert engines.die(batch, "crashed") == []
    assert engines.suspects() == {0, 1}
    assert engines.die([(WORKER, 3), (WORKER, 1)], "crashed", quarantined=(WORKER, 1)) == [1]
    assert engines.suspects() == {0}, "of the others in that engine nobody is any more suspect than before"


def test_a_quarantine_of_another_worker_makes_nobody_a_suspect_here(engines: Engines) -> None:
    engines.die([(WORKER, 0), (9, 7)], "crashed")
    assert engines.die([(WORKER, 1), (9, 7)], "crashed", quarantined=(9, 7)) == []
    assert engines.suspects() == {0}


def test_a_quarantined_sequence_that_was_not_in_flight_leaves_the_others_suspects(engines: Engines) -> None:
    engines.die([(WORKER, 0)], "crashed")
    assert engines.die([(WORKER, 1)], "crashed", quarantined=(WORKER, 0)) == []
    assert engines.suspects() == {0, 1}


def test_who_got_past_the_place_is_beyond_suspicion(engines: Engines) -> None:
    engines.die([(WORKER, 0), (WORKER, 1)], "crashed")
    engines.get_tokens(0, 1)
    assert engines.suspects() == {0, 1}, "two steps may have been under way"
    engines.get_tokens(0, 1)
    assert engines.suspects() == {1}


def test_whoever_else_ends_an_engine_makes_nobody_a_suspect(engines: Engines) -> None:
    engines.die([(WORKER, 0)], "crashed")
    assert engines.suspects() == {0}
    for _ in range(10):
        assert engines.die([(WORKER, 0)], "ended", quarantined=(WORKER, 0)) == []
        assert engines.die([(WORKER, 1)], "ended") == []
    assert engines.suspects() == {0}
    assert engines.die([(WORKER, 0)], "crashed", quarantined=(WORKER, 0)) == [0]


def test_kills_where_memory_ran_out_need_four_to_give_a_request_up(engines: Engines) -> None:
    batch = [(WORKER, 0), (WORKER, 1)]
    assert engines.die(batch, "killed") == []
    assert engines.suspects() == set()
    assert engines.die(batch, "killed") == []
    assert engines.suspects() == {0, 1}
    assert engines.die(batch, "killed", quarantined=(WORKER, 0)) == []
    assert engines.die(batch, "killed", quarantined=(WORKER, 0)) == [0]
    assert engines.suspects() == {1}
    assert POISON == 2 * SUSPECT


def test_kills_with_progress_between_them_make_nobody_a_suspect(engines: Engines) -> None:
    for _ in range(10):
        assert engines.die([(WORKER, 0)], "killed") == []
        engines.get_tokens(0, 2)
    assert engines.suspects() == set()


def test_a_lost_connection_is_no_death(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path / "x.flight")
    recorder.begin_step([(WORKER, 0)])
    sequence = Engines(tmp_path).live[0]
    lost = EngineExit(HELLO, FlightRecord(tmp_path / "x.flight"))
    assert lost.find_poison([sequence], lost.cause_by(HELLO)) == []
    assert sequence.suspicion == 0
