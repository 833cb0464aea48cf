import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from headwater.engine.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_logical_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def pair_threads(root: Path) -> None:
    """CPUs 0 and 4, 1 and 5, ... are the threads of a core."""
    for cpu in range(8):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")


def test_a_core_counts_once_however_many_threads_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path) == 8  # nothing says that any two are of one core
    pair_threads(tmp_path)
    assert usable_cores(tmp_path) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 4, 5})
    assert usable_cores(tmp_path) == 2


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_is_kept(tmp_path: Path, limit: str, cores: int) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", limit)
    assert usable_cores(tmp_path) == cores


def test_the_quota_of_a_group_above_holds_too(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/system.slice/headwater.service\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/headwater.service/cpu.max", "600000 100000")
    write(tmp_path, "sys/fs/cgroup/system.slice/cpu.max", "300000 100000")
    assert usable_cores(tmp_path) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("500000", 5)])
def test_the_first_version_of_cgroups_is_read(tmp_path: Path, quota: str, cores: int) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert usable_cores(tmp_path) == cores


def test_a_system_without_affinity_masks_has_all_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cores(tmp_path) == 10


def test_the_cpu_backend_starts_without_triton() -> None:
    """As on macOS, for which Triton has no wheels."""
    program = "import sys; sys.modules['triton'] = None; import headwater.engine.__main__, headwater.kernels.cpu"
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=300)


def test_no_package_needs_triton_but_on_linux() -> None:
    assert [line.partition(";")[2].strip() for line in metadata.requires("headwater") if line.startswith("triton")] == [
        'platform_system == "Linux"'
    ]
