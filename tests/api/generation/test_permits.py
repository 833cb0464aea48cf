import multiprocessing
import os
from contextlib import ExitStack, suppress
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from headwater.api.generation.permits import Permits, create_permits
from headwater.api.http.errors import OverloadedError

LIMIT = 8
ROUNDS = 500

fork = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_permits(tmp_path / "permits")
    return tmp_path / "permits"


def test_one_more_than_the_limit_is_refused_and_given_back(path: Path) -> None:
    permits = Permits(path, 1)
    with permits.hold():
        with pytest.raises(OverloadedError) as caught, permits.hold():
            pass
        assert permits.used == 1
    assert (caught.value.status, caught.value.error, caught.value.error_type) == (
        429,
        "Model is overloaded",
        "overloaded",
    )
    assert caught.value.headers == ((b"retry-after", b"1"),)
    assert permits.used == 0
    with permits.hold():
        assert permits.used == 1


def _race(
    path: Path, start: Barrier, held: "Synchronized[int]", results: "multiprocessing.Queue[tuple[int, int]]"
) -> None:
    """Report the slot's number, and the most permits that were held at once by all workers, as ``held`` counts them."""
    permits = Permits(path, LIMIT)
    most = 0
    start.wait()
    for _ in range(ROUNDS):
        with suppress(OverloadedError), ExitStack() as stack:
            for _ in range(LIMIT):
                stack.enter_context(permits.hold())
                stack.callback(_add, held, -1)
                most = max(most, _add(held, 1))
    results.put((permits.index, most))
    start.wait()  # keep the slot until everybody is done


def _add(counter: "Synchronized[int]", count: int) -> int:
    with counter.get_lock():
        counter.value += count
        return counter.value


def test_workers_share_one_limit(path: Path) -> None:
    mine = Permits(path, LIMIT)
    start, held, results = fork.Barrier(4), fork.Value("q", 0), fork.Queue()
    workers = [fork.Process(target=_race, args=(path, start, held, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    reports = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert {index for index, _ in reports} == {1, 2, 3, 4}
    assert max(most for _, most in reports) == LIMIT  # reached, and never exceeded
    assert mine.used == 0


def _die_with_a_permit(path: Path) -> None:
    with Permits(path, LIMIT).hold():
        os._exit(0)


def test_the_slot_of_a_dead_worker_is_taken_over(path: Path) -> None:
    other = Permits(path, 1)
    worker = fork.Process(target=_die_with_a_permit, args=(path,))
    worker.start()
    worker.join()
    assert other.used == 1
    with other.hold(), pytest.raises(OverloadedError), other.hold():  # a permit of the dead is in nobody's way
        pass
    assert Permits(path, LIMIT).index == 1
    assert other.used == 0


def test_several_permits_are_held_together_or_not_at_all(path: Path) -> None:
    permits = Permits(path, 3)
    with permits.hold(2):
        with pytest.raises(OverloadedError), permits.hold(2):
            pass
        with permits.hold():
            assert permits.used == 3
    with permits.hold(99):  # more than there are: all of them
        assert permits.used == 3
    assert permits.used == 0
