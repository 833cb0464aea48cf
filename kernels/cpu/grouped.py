"""Linears of which each serves some of the rows: what the experts of a mixture are.

A member is any linear of this backend. Its phases are recorded once, with the addresses of all rows; the phases that
are alike become one, whose threads go from member to member and call the member's own kernel for the rows that are the
member's, moved to where they begin. So each form of weights keeps its kernel and the order of its sums, a row's result
depends on nobody else's, and what no row chose is not read.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import types

from .. import Linear, Unsupported
from ..routing import Routing
from .machine import aligned_empty, array_at, atomic_add, atomic_exchange, call, copy_values
from .op_graph import Phase, Recording, fill, keep, run, struct_dtype, work_item
from .thread_pool import thread_pool

_ROW_FIELDS = ("x", "s", "y")  # of a linear's arguments: tensors with a row for each row
_MOST_WORDS = 32  # of a linear's arguments
_LINE = 64  # bytes
_GROUPED = struct_dtype(
    kernel=int, fixed=int, per_rows=int, times=int, members=int, words=int, places=int, strides=int, moved=int, own=int,
    plan=int, experts=int, counters=int, threads=int,
)  # fmt: skip


@work_item
def _grouped():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _GROUPED)[0]
        plan = array_at(a.plan, 2 * a.experts + 2, types.int64)
        active, chosen, starts = plan[0], plan[1 : a.experts + 1], plan[a.experts + 1 :]
        places, strides = array_at(a.places, a.moved, types.int64), array_at(a.strides, a.moved, types.int64)
        own = array_at(a.own + thread * _MOST_WORDS * 8, a.words, types.int64)
        member, before, copied = 0, 0, -1  # in the list of active ones; work items of those before it
        claimed = atomic_add(a.counters, 1)
        while member < active:
            count = starts[member + 1] - starts[member]
            items = a.times * (a.fixed + (count + a.per_rows - 1) // a.per_rows)
            if claimed >= before + items:
                before += items
                member += 1
                continue
            if copied != member:
                copy_values(own, array_at(a.members + chosen[member] * a.words * 8, a.words, types.int64))
                for i in range(a.moved):
                    own[places[i]] += strides[i] * starts[member]
                copied = member
            call(a.kernel, a.own + thread * _MOST_WORDS * 8, claimed - before, thread, count, 0)
            claimed = atomic_add(a.counters, 1)
        if atomic_add(a.counters + _LINE, 1) == a.threads - 1:  # the last item of this phase: ready for the next launch
            atomic_exchange(a.counters, 0)
            atomic_exchange(a.counters + _LINE, 0)

    return kernel


class GroupedLinear:
    """Linears of the same shape and form; see the module."""

    def __init__(self, members: Sequence[Linear]) -> None:
        self._members = list(members)

    @property
    def nbytes(self) -> int:
        return sum(member.nbytes for member in self._members)

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        """[pairs, in], sorted as ``routing`` says -> [pairs, out] fp32, in the same order. Raises Unsupported."""
        recording = Recording()
        recorded = [recording.record(member, x) for member in self._members]
        phases = [member_phases for _, member_phases in recorded]
        if len({len(each) for each in phases}) > 1:
            raise Unsupported("experts of one layer whose weights are in different forms")
        for alike in zip(*phases, strict=True):
            _run_alike(alike, routing)
        keep(self)
        return recorded[0][0]


def _run_alike(phases: Sequence[Phase], routing: Routing) -> None:
    """One phase of all members."""
    first = phases[0]
    if len({(phase.kernel, phase.fixed, phase.per_rows, phase.times, *_row_strides(phase)) for phase in phases}) > 1:
        raise Unsupported("experts of one layer whose weights are in different forms")
    members = np.concatenate([fill(phase.kind, phase.arguments)[0] for phase in phases])
    names, bytes_of_rows = zip(*_row_strides(first), strict=True)
    fields = first.kind.fields or {}
    places = np.array([fields[name][1] // 8 for name in names], np.int64)
    strides = np.array(bytes_of_rows, np.int64)
    words, threads = first.kind.itemsize // 8, thread_pool().threads
    assert words <= _MOST_WORDS
    arguments = {
        "kernel": first.kernel, "fixed": first.fixed, "per_rows": first.per_rows, "times": first.times,
        "members": members.ctypes.data, "words": words, "places": places.ctypes.data, "strides": strides.ctypes.data,
        "moved": len(names), "own": aligned_empty((threads, _MOST_WORDS), torch.int64), "plan": routing.plan,
        "experts": len(phases), "counters": torch.zeros(2 * _LINE // 8, dtype=torch.int64), "threads": threads,
    }  # fmt: skip
    keep(members, places, strides, [phase.arguments for phase in phases])
    run(_grouped(), _GROUPED, arguments, 1, fixed=threads)


def _row_strides(phase: Phase) -> list[tuple[str, int]]:
    """Of the tensors that have a row for each row, in bytes."""
    tensors = {name: phase.arguments.get(name) for name in _ROW_FIELDS}
    return [(name, each.stride(0) * each.itemsize) for name, each in tensors.items() if each is not None]


def group_linears(members: Sequence[Linear]) -> GroupedLinear:
    """Linears of the same shape and form, of which each pair of a row and an expert takes one."""
    return GroupedLinear(members)
