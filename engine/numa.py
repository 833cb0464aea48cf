"""Nodes of memory: which of them the CPU backend's threads and weights are on.

A thread reads its own node's memory at full speed, another's at half and less (Linux: Documentation/admin-guide/mm).
Weights lie on the node of the thread that packed them, and any thread may get any work item of a step: so either all is
on one node, or every page of memory is on the next node in turn.
"""

import ctypes
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Literal

from .cores import usable_cores

Numa = Literal["isolate", "distribute"]
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_INTERLEAVE = 3


def nodes(root: Path = Path("/")) -> dict[int, set[int]]:
    """By number, the logical CPUs of each node that this process may use; {} where the system says nothing of nodes."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    found = {}
    for directory in sorted((root / "sys/devices/system/node").glob("node[0-9]*")):
        with suppress(OSError, ValueError):
            cpus = _listed((directory / "cpulist").read_text()) & allowed
            if cpus:
                found[int(directory.name.removeprefix("node"))] = cpus
    return found


def place(wanted: Numa | None, threads: int | None, root: Path = Path("/")) -> str | None:
    """Keep this process, and the threads that it starts from now on, to one node, or spread its memory over all.

    Unless told, one node, if it has the threads that were asked for: nothing then depends on where a page lies.

    Returns:
        What was done and why, None where there is one node and nothing to say.
    """
    found = nodes(root)
    if len(found) < 2:
        return f"--numa {wanted} changes nothing: there is one node" if wanted else None
    largest = max(found, key=lambda node: (len(found[node]), -node))
    if wanted is None:
        wanted = "isolate" if threads is None or threads <= len(found[largest]) else "distribute"
    if wanted == "isolate":
        os.sched_setaffinity(0, found[largest])
        cores = usable_cores(root)
        return f"numa: {cores} cores of node {largest}, of {len(found)} nodes; --numa distribute takes all"
    failed = _interleave(found)
    return f"numa: memory is spread over {len(found)} nodes" + (f", but for the system: {failed}" if failed else "")


def _interleave(found: dict[int, set[int]]) -> str:
    """Pages that are touched from now on lie on the nodes in turn. Returns why not, or nothing."""
    call = _SET_MEMPOLICY.get(platform.machine())
    if call is None:
        return "it has no call for it"
    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.c_ulong(sum(1 << node for node in found))
    if libc.syscall(call, _INTERLEAVE, ctypes.byref(mask), ctypes.sizeof(mask) * 8) != 0:
        return os.strerror(ctypes.get_errno())
    return ""


def _listed(text: str) -> set[int]:
    """Of "0-3,8"."""
    parts = [part.split("-") for part in text.strip().split(",") if part]
    return {cpu for part in parts for cpu in range(int(part[0]), int(part[-1]) + 1)}
