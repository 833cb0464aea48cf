"""The engine's record of what it is doing, as others read it; and what survives an engine that is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.engine.flight_recorder import FlightRecord, FlightRecorder, flight_path, remove_engine_files

A, B, C = (0, 1), (0, 2), (7, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return flight_path(tmp_path / "engine-0.sock")


def test_what_is_in_hand_at_each_moment_of_overlapping_steps(path: Path) -> None:
    recorder = FlightRecorder(path)
    record = FlightRecord(path)
    assert record.pid == os.getpid()
    assert (record.in_flight(), record.step_age_s, record.steps) == (set(), None, 0)
    recorder.begin_step([A, B])
    assert (record.in_flight(), record.steps) == ({A, B}, 1)
    recorder.begin_step([B, C])
    assert record.in_flight() == {A, B, C}
    first_age_s = record.step_age_s
    recorder.end_step()
    assert record.in_flight() == {B, C}
    assert first_age_s is not None
    assert record.step_age_s is not None
    assert record.idle_s >= 0.0
    recorder.end_step()
    assert (record.in_flight(), record.step_age_s) == (set(), None)


def test_what_is_taken_in_compiled_and_on_trial(path: Path) -> None:
    recorder = FlightRecorder(path)
    record = FlightRecord(path)
    recorder.admit(A)
    recorder.compile([B])
    recorder.quarantine(C)
    assert (record.in_flight(), record.quarantined) == ({A, B}, C)
    recorder.admit(None)
    recorder.compile([])
    recorder.quarantine(None)
    assert (record.in_flight(), record.quarantined) == (set(), None)


def test_more_sequences_than_there_is_room_for_are_no_fault(path: Path) -> None:
    recorder = FlightRecorder(path)
    recorder.begin_step((0, number) for number in range(10_000))
    assert FlightRecord(path).in_flight() == {(0, number) for number in range(4096)}


def test_a_reader_keeps_the_record_of_an_engine_that_was_killed(path: Path) -> None:
    program = """
import sys
from pathlib import Path
from headwater.engine.flight_recorder import FlightRecorder
recorder = FlightRecorder(Path(sys.argv[1]))
recorder.begin_step([(0, 1)])
print("begun", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-P", "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        record = FlightRecord(path)
        process.send_signal(signal.SIGKILL)
    FlightRecorder(path)  # the next engine's
    assert (record.pid, record.in_flight()) == (process.pid, {A})
    assert FlightRecord(path).in_flight() == set()


def test_it_is_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir()
    socket = directory / "engine-0.sock"
    FlightRecorder(flight_path(socket))
    assert flight_path(socket).stat().st_mode & 0o777 == 0o600
    (directory / "api").touch()
    remove_engine_files(socket)
    assert [file.name for file in directory.iterdir()] == ["api"], "the directory is still somebody's"
    (directory / "api").unlink()
    remove_engine_files(socket)
    assert not directory.exists()


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_what_is_no_record_is_refused(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        FlightRecord(path)
