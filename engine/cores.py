"""How many cores a process may use, on every platform."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that the affinity mask allows, at most what the cgroup's quota pays for.

    A kernel's thread fills its core's units or waits for memory: a second one on the same core takes turns with it, and
    one more than the quota allows stops all of them until the next period. PyTorch and llama.cpp count so, too.

    Args:
        root: where /proc and /sys are.
    """
    allowed = _allowed()
    cores = len({_siblings(root, cpu) for cpu in allowed}) if allowed else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(root)])))


def _allowed() -> set[int]:
    """Numbers of logical CPUs; empty where the system has no affinity masks: macOS."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _siblings(root: Path, cpu: int) -> str:
    """Names the core of a logical CPU: two threads of one core give the same."""
    with suppress(OSError):
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    return str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that the process's cgroups get, versions 2 and 1; none without a limit."""
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "" or "cpu" in controllers.split(","):
                base = mounted / "cpu" if controllers else mounted
                own = base / name.lstrip("/")
                # A parent's limit holds, too. In a container the name may be the host's, and the root is its own.
                for group in (own, *own.parents[: len(own.parts) - len(base.parts)]):
                    yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            yield quota_us / int((group / "cpu.cfs_period_us").read_text())
