import os
from pathlib import Path

import pytest

from headwater.engine import numa


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """What the process was kept to; it may use CPUs 0 to 11."""
    kept = [set(range(12))]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: kept[-1], raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, cpus: kept.append(cpus), raising=False)
    return kept


def write(root: Path, *cpulists: str) -> None:
    for node, text in enumerate(cpulists):
        directory = root / f"sys/devices/system/node/node{node}"
        directory.mkdir(parents=True)
        (directory / "cpulist").write_text(f"{text}\n")


def test_a_process_stays_on_the_node_with_the_most_of_its_cores(tmp_path: Path, pinned: list[set[int]]) -> None:
    write(tmp_path, "0-3", "4-11", "12-99", "")
    assert numa.nodes(tmp_path) == {0: {0, 1, 2, 3}, 1: set(range(4, 12))}
    told = numa.place(None, None, tmp_path)
    assert told == "numa: 8 cores of node 1, of 2 nodes; --numa distribute takes all"
    assert pinned[-1] == set(range(4, 12))


@pytest.mark.parametrize(("wanted", "threads"), [("distribute", None), (None, 12)])
def test_memory_is_spread_where_more_threads_are_wanted_than_a_node_has(
    tmp_path: Path,
    pinned: list[set[int]],
    monkeypatch: pytest.MonkeyPatch,
    wanted: numa.Numa | None,
    threads: int | None,
) -> None:
    write(tmp_path, "0-3", "4-11")
    spread = []
    monkeypatch.setattr(numa, "_interleave", lambda found: spread.append(sorted(found)) or "")
    assert numa.place(wanted, threads, tmp_path) == "numa: memory is spread over 2 nodes"
    assert spread == [[0, 1]]
    assert len(pinned) == 1


def test_with_one_node_or_none_nothing_is_done(tmp_path: Path, pinned: list[set[int]]) -> None:
    assert numa.place(None, None, tmp_path) is None
    write(tmp_path, "0-11")
    assert numa.place("isolate", None, tmp_path) == "--numa isolate changes nothing: there is one node"
    assert len(pinned) == 1


def test_the_system_takes_the_call_or_says_why_not() -> None:
    # Of this process's one node: what it does anyway. Containers may forbid it.
    assert numa._interleave({0: {0}}) in ("", os.strerror(1), os.strerror(38))
