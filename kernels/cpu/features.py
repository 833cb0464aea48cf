"""The instruction set that the kernels of this process are made for: a row of kernels/instruction_sets.py."""

import os

import numba
from numba.core.registry import cpu_target

from ..instruction_sets import choose_set

SET = choose_set().set


def numerics() -> str:
    """See Backend: fused operations and the order of sums are chosen by the processor's instructions."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    amx = os.environ.get("HEADWATER_AMX", "")
    return f"numba {numba.__version__} on {name}{features} as {SET.name} HEADWATER_AMX={amx}"
