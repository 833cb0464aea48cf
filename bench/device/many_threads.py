"""A model of a decode step on many threads: ``python -m headwater.bench.device.many_threads``.

A step is a list of phases (kernels/cpu/thread_pool.py), a phase some work items that threads claim one by one from a
counter. So a phase takes as many turns as its items need, and each claim, and each thread's last look, moves the
counter's cache line from core to core. No measurement: an item takes its bytes at a thread's share of the memory or
its multiply-adds, and ``CLAIM_S`` is what a line takes between cores of one socket.
"""

import math
import sys
from typing import NamedTuple

from ...kernels.cpu.linear import _FEW_ROWS, _PANELS, _ROWS
from ...kernels.cpu.llvm import LANES
from .shapes import LLAMA_3_VOCAB, LLAMA_8B, MODELS, Model

CLAIM_S = 60e-9
MEMORY_BYTES_S = 300e9  # of a socket with 8 channels of DDR5
CORE_BYTES_S = 20e9  # the most that one core reads
MULTIPLY_ADDS_S = 40e9  # of a core with AVX2 at 3 GHz, 80 % of its units
_PER_ROW_S = 2e-6  # a norm or a rotation of one row
_SEGMENT = 512  # positions
LAYERS = {"smollm2-135m": (30, 49152), "llama-3.1-8b": (32, LLAMA_3_VOCAB)}


class Phase(NamedTuple):
    """Work items, of them those that have work, the bytes that all read together, and the time that all compute."""

    name: str
    claimed: int
    items: int
    bytes: float
    seconds: float = 0.0


class Cost(NamedTuple):
    """Of a step, in seconds: work if it were divided evenly, idle threads at the ends of phases, and claims."""

    work: float
    idle: float
    claims: float

    @property
    def total(self) -> float:
        return sum(self)


def claims_of(out: int, rows: int) -> int:
    """Work items of a linear with so many outputs (kernels/cpu/linear.py)."""
    return math.ceil(math.ceil(out / LANES) / _PANELS) * math.ceil(rows / _ROWS)


def phases_of(model: Model, rows: int, context: int, bytes_per_weight: float = 2.0) -> list[Phase]:
    """A step of ``rows`` sequences, each with ``context`` positions."""
    layers, vocab = LAYERS[model.name]
    q, kv = model.q_heads * model.head_dim, model.kv_heads * model.head_dim

    def linear(name: str, out: int, inner: int) -> Phase:
        claimed = claims_of(out, rows)
        items = math.ceil(claimed / 2) if rows < _FEW_ROWS else claimed  # few rows: one does two items' work
        return Phase(name, claimed, items, out * inner * bytes_per_weight, out * inner * rows / MULTIPLY_ADDS_S)

    segments = math.ceil(context / _SEGMENT)
    per_row = Phase("row by row", rows, rows, 0, rows * _PER_ROW_S)
    items = rows * model.kv_heads * segments
    attention = Phase("attention", items, items, rows * context * kv * 4)
    layer = [
        per_row, linear("qkv", q + 2 * kv, model.hidden), per_row, attention, linear("o", model.hidden, q), per_row,
        linear("gate and up", 2 * model.intermediate, model.hidden), per_row,
        linear("down", model.hidden, model.intermediate),
    ]  # fmt: skip
    return layer * layers + [per_row, linear("head", vocab, model.hidden), per_row]


def cost(phases: list[Phase], threads: int) -> Cost:
    """What the phases take so many threads."""
    work = idle = claims = 0.0
    for phase in phases:
        busy = min(threads, phase.items)
        rate = min(MEMORY_BYTES_S, threads * CORE_BYTES_S)
        even = max(phase.bytes / rate, phase.seconds / threads)
        # Of fewer threads each reads at most what a core can; the last turn may be a short one.
        turns = math.ceil(phase.items / threads)
        reads = phase.bytes / phase.items / min(MEMORY_BYTES_S / busy, CORE_BYTES_S)
        share = max(reads, phase.seconds / phase.items)
        work += even
        idle += max(0.0, turns * share - even)
        claims += (phase.claimed + threads) * CLAIM_S if threads > 1 else 0.0
    return Cost(work, idle, claims)


def main() -> int:
    print(f"{'model':<14} {'rows':>4} {'threads':>7} {'work ms':>8} {'idle ms':>8} {'claims ms':>9} {'tokens/s':>9}")
    for model in (next(model for model in MODELS if model.name == "smollm2-135m"), LLAMA_8B):
        for rows in (1, 32):
            for threads in (1, 2, 4, 8, 16, 32, 64):
                step = cost(phases_of(model, rows, 512), threads)
                numbers = f"{step.work * 1e3:8.2f} {step.idle * 1e3:8.2f} {step.claims * 1e3:9.2f}"
                print(f"{model.name:<14} {rows:>4} {threads:>7} {numbers} {rows / step.total:9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
