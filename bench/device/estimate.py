"""A step on paper, launch by launch: ``python -m headwater.bench.device.estimate [SHAPE] [--arch 90]``.

From what the dry run records of the engine's runner: the bytes and FLOPs of every launch, the least time that the
card's data sheet allows, and the time that is to be expected, with its reason. Nothing here was measured; what is
assumed stands in ``_SHARES`` and the constants around it. One table for each step, in Markdown, and one of tokens/s.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from triton import knobs

from ...engine.chunk import Chunk
from ...engine.messages import SamplingParams
from ...kernels.triton.attention_plan import SPLIT_ROWS
from ...kernels.triton.splits import max_splits
from .audit.gpus import AUDITED_GPUS, AuditedGpu
from .dry_run.__main__ import StepRecord, StepShape, record_steps
from .dry_run.fake_device import recorded_device
from .dry_run.models import SHAPES
from .dry_run.traffic import Call, own_chunks, traffic_of
from .dry_run.work import LAUNCHES, Work

LAUNCH_US = 2.0  # between two launches of a graph (1 us), and until the first loads come back and the last are done
# What one multiprocessor reads: 64 KiB on their way for 0.8 us, and something lost. So few programs are slow ones.
PROGRAM_GB_S = 60.0


class Share(NamedTuple):
    """Of the data sheet's bandwidth and rate, what a kernel is expected to get, and why."""

    memory: float
    math: float
    why: str


_OTHERS = Share(0.6, 0.5, "small: its launch is what it takes")
_SHARES = {
    "linear_kernel": Share(0.85, 0.62, "a copy gets 0.92; wgmma fed by cp.async 0.62, as Triton's own matmul"),
    "linear": Share(0.85, 0.72, "the vendor's library"),
    "few rows": Share(0.8, 0.4, "three buffers of K and V in two blocks: on paper 0.8 of a copy and more"),
    "many rows": Share(0.8, 0.4, "nothing overlaps a tile's softmax but the other warp group's products"),
    "_merge_kernel": Share(0.6, 0.5, "partial sums lie in L2"),
    "tiles_kernel": Share(0.8, 0.5, "reads and writes the logits"),
}
_GREEDY = (SamplingParams(64, greedy=True),)


class Step(NamedTuple):
    """What is estimated: tokens of a step are its sequences, or its prompt's rows."""

    shape: StepShape
    tokens: int
    kv_cache_dtype: str = "auto"


STEPS = (
    Step(StepShape("decode 1 x 1024", (1024,), sampling=_GREEDY), 1),
    Step(StepShape("decode 64 x 1024", (1024,) * 64, sampling=_GREEDY), 64),
    Step(StepShape("prompt of 2048", (), ((0, 2048),), sampling=_GREEDY), 2048),
    # In 16 bits 80 GB do not hold it beside the weights.
    Step(StepShape("decode 64 x 8192, pages in fp8", (8192,) * 64, sampling=_GREEDY), 64, "fp8_e4m3fn"),
)


class Estimate(NamedTuple):
    """Of one launch."""

    name: str
    traffic_bytes: int
    flops: int
    least_us: float
    expected_us: float
    why: str


def estimate(work: Work, chunks: list[Chunk], card: AuditedGpu) -> Estimate:
    """Least time: bytes or FLOPs over the card's. Expected: a share of these, or what its programs can read."""
    traffic_bytes = traffic_of([work], chunks).moved
    name, kind, flops, programs = work.name, work.kind if work.kind == "linear" else work.name, 0, 0
    fill = 1.0  # of the multiprocessors, by whole rounds of programs
    if work.name in ("linear_kernel", "qkv_kernel"):
        call = Call(work)
        outputs, inputs, rows = call.constant("OUTPUTS"), call.constant("INPUTS"), work.tensors["x_ptr"].shape[0]
        name, kind, flops = f"linear {inputs} -> {outputs}", "linear_kernel", 2 * outputs * inputs * rows
        programs = -(-outputs // call.constant("BLOCK_OUTPUTS")) * -(-rows // call.constant("BLOCK_ROWS"))
        programs *= call.constant("SEGMENTS") if call.constant("SPLIT") else 1
        fill = programs / card.multiprocessors / math.ceil(programs / card.multiprocessors)
    elif work.name == "_attention_kernel":
        call = Call(work)
        own, kv_heads = own_chunks(call, chunks), call.constant("KV_HEADS")
        kind = "few rows" if call.constant("COUNT") == 0 else "many rows"
        name = f"attention, {kind}"
        pairs = sum(chunk.count * chunk.start + chunk.count * (chunk.count + 1) // 2 for chunk in own)
        flops = 4 * pairs * kv_heads * call.constant("GROUP") * call.constant("HEAD_DIM")
        programs = kv_heads * sum(_units(chunk, call) for chunk in own)
    share = _SHARES.get(kind, _OTHERS)
    memory_us, math_us = traffic_bytes / card.memory_gb_s * 1e-3, flops / card.dense_tflops * 1e-6
    busy = min(programs or card.multiprocessors, card.multiprocessors)
    expected = max(memory_us / share.memory, math_us / share.math / fill, traffic_bytes / busy / PROGRAM_GB_S * 1e-3)
    return Estimate(name, traffic_bytes, flops, max(memory_us, math_us), LAUNCH_US + expected, share.why)


def _units(chunk: Chunk, call: Call) -> int:
    """Work units of a sequence and KV head."""
    tiles = -(-chunk.count * call.constant("GROUP") // call.constant("ROWS"))
    return tiles * (max_splits(chunk.start + chunk.count) if chunk.count <= SPLIT_ROWS else 1)


def estimates_of(record: StepRecord, arch: int) -> list[Estimate]:
    """Of each launch of a step, in order."""
    with recorded_device(arch):  # of which the tiles are asked for
        return [estimate(work, record.chunks, AUDITED_GPUS[arch]) for work in record.work if work.kind in LAUNCHES]


def table(record: StepRecord, found: Sequence[Estimate]) -> list[str]:
    """Markdown: a line for each kind of launch, those that take longest first."""
    lines = [f"### {record.step.name}", "", "| launches | | MB | GFLOP | least us | expected us | why |"]
    lines.append("|---|---:|---:|---:|---:|---:|---|")
    kinds = {each.name: [other for other in found if other.name == each.name] for each in found}
    for name, same in sorted(kinds.items(), key=lambda item: -sum(each.expected_us for each in item[1])):
        sums = (
            sum(each.traffic_bytes for each in same) / 1e6, sum(each.flops for each in same) / 1e9,
            sum(each.least_us for each in same), sum(each.expected_us for each in same),
        )  # fmt: skip
        numbers = " | ".join(f"{value:,.0f}" if value >= 10 else f"{value:.2f}" for value in sums)
        lines.append(f"| {name} | {len(same)} | {numbers} | {same[0].why} |")
    return [*lines, ""]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m headwater.bench.device.estimate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("shape", nargs="?", default="llama-3.1-8b", choices=list(SHAPES))
    parser.add_argument("--arch", type=int, choices=list(AUDITED_GPUS), default=90)
    parser.add_argument("--layers", type=int, help="of the model, instead of all that it has")
    arguments = parser.parse_args()
    card = AUDITED_GPUS[arguments.arch]
    print(f"{arguments.shape} on one {card.card}: estimates, nothing was measured\n")
    summary = ["| step | launches | GB | least ms | expected ms | tokens/s |", "|---|---:|---:|---:|---:|---:|"]
    for dtype in dict.fromkeys(step.kv_cache_dtype for step in STEPS):
        steps = [step for step in STEPS if step.kv_cache_dtype == dtype]
        shapes = [step.shape for step in steps]
        records = record_steps(arguments.shape, arguments.arch, arguments.layers, shapes, kv_cache_dtype=dtype)
        for step, record in zip(steps, records, strict=True):
            found = estimates_of(record, arguments.arch)
            print(*table(record, found), sep="\n", flush=True)
            least, expected = (sum(times) * 1e-3 for times in zip(*(each[3:5] for each in found), strict=True))
            gigabytes = sum(each.traffic_bytes for each in found) / 1e9
            summary.append(
                f"| {step.shape.name} | {len(found)} | {gigabytes:.1f} | {least:.2f} | {expected:.2f} "
                f"| {step.tokens / expected * 1e3:,.0f} |"
            )
    print(*summary, sep="\n")
    return 0


if __name__ == "__main__":
    if knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: kernels would be interpreted, not compiled")
    sys.exit(main())
