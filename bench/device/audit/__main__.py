"""Compiles every kernel for every architecture and says what came out: ``python -m headwater.bench.device.audit``.

No GPU is needed. For each launch of each model: registers, spills, shared memory, resident blocks, widths of the loads
in inner loops, matrix and copy instructions there, K/V buffers, and the time that memory or tensor cores need at least.
Ends with status 1 if a rule of ``problems`` is broken.

``--snapshot`` prints the lines that the tests compare: send them to tests/bench/device/audit_snapshot.txt after a
change and the diff shows what the change did.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from triton import knobs

from ..shapes import LLAMA_8B, MODELS, Model
from .binary import Facts, compile_and_read
from .expert_launches import expert_launches
from .gpus import AUDITED_GPUS
from .launches import (
    FP8_FROM,
    Launch,
    adapter_launches,
    attention_launches,
    block_launches,
    linear_launches,
    qkv_launches,
    row_launches,
    sampler_launches,
)

_SPILL_BYTES = 0
_ATTENTION = ("attention few rows", "attention many rows")
_LINEARS = ("bf16 linear, 16 rows", "bf16 linear, 64 rows", "bf16 linear, 2048 rows", "bf16 wide linear, 2048 rows")
_FUSED = (
    "bf16 gated linear, 64 rows",
    "bf16 gated linear, 2048 rows",
    "bf16 qkv linear, 64 rows",
    "bf16 qkv linear, 2048 rows",
)
_EIGHT_BITS = ("int8 linear, 16 rows", "fp8 linear, 16 rows", "fp8 linear, 2048 rows")
_ADAPTERS = ("adapters down, 64 rows", "adapters up, 64 rows")
_BLOCKS = ("Q4_K linear, 8 rows", "Q4_K linear, 2048 rows", "GPTQ linear, 8 rows", "GPTQ linear, 2048 rows")
_EXPERTS = ("bf16 experts, 64 rows", "bf16 experts, 2048 rows", "int8 experts, 64 rows", "Q4_K experts, 64 rows")
SNAPSHOT = (
    (80, "llama-3.1-8b", (*_ATTENTION, *_LINEARS, *_BLOCKS)),
    (90, "llama-3.1-8b", (*_ATTENTION, "attention merge", "add_rms_norm", "rope_and_write", *_BLOCKS)),
    (90, "llama-3.1-8b", (*_LINEARS, *_FUSED, *_EIGHT_BITS, *_ADAPTERS)),
    (100, "llama-3.1-8b", (*_ATTENTION, *_LINEARS, *_FUSED, *_BLOCKS)),
    (120, "llama-3.1-8b", (*_ATTENTION, *_LINEARS, *_BLOCKS)),
    (90, "smollm2-135m", _ATTENTION),
    (90, "qwen3-30b-a3b", ("choose experts", "choose experts, biased", "sort by expert", *_EXPERTS, "xielu")),
    (90, "gpt-oss-20b", ("attention few rows", "attention merge", "clamped_silu_and_mul", "MXFP4 experts, 64 rows")),
    (90, "llama-3.1-8b-fp8-cache", ("attention few rows",)),
    (90, "gemma-3-4b", ("attention few rows",)),
)
_ROWS_OF_LINEAR = re.compile(r"((?:bf16|int8|fp8|Q4_K|GPTQ|MXFP4) .*(?:linear|experts)), \d+ rows")
_ROOMY = 2  # buffers: one is read while the next is on its way


class Finding(NamedTuple):
    """One launch on one architecture."""

    model: str
    launch: Launch
    arch: int
    facts: Facts


def problems(finding: Finding) -> list[str]:
    """The rules that a launch breaks."""
    facts, gpu = finding.facts, AUDITED_GPUS[finding.arch]
    found = []
    if finding.launch.flops and not facts.mma:
        found.append("no matrix product: the compiler gave up, and made a kernel that traps")
    if facts.loop_spills:
        found.append(f"{facts.loop_spills} loads or stores of spilled registers where it matters")
    if facts.stack_bytes > _SPILL_BYTES:
        found.append(f"{facts.stack_bytes} bytes of registers spilled")
    if facts.shared_bytes > gpu.block_shared_bytes:
        found.append(f"{facts.shared_bytes} bytes of shared memory, {gpu.block_shared_bytes} is the limit")
    if facts.blocks < finding.launch.min_blocks:
        found.append(f"{facts.blocks} blocks fit on a multiprocessor, {finding.launch.min_blocks} are meant to")
    narrow = sum(count for width, count in facts.loads.items() if width <= 2)
    if narrow and facts.has_loop:
        found.append(f"{narrow} loads of 1 or 2 bytes in an inner loop")
    if facts.mma and facts.buffers < _ROOMY:
        found.append("the next tile is not on its way while one is read")
    return found


def order_problems(findings: Sequence[Finding]) -> list[str]:
    """Where a row's bits depend on its sequence's role, or on the rows of the step: kernels sum in other orders."""
    orders: dict[tuple[int, str, str], set[tuple[str, ...]]] = {}
    for arch, model, name, facts in ((each.arch, each.model, each.launch.name, each.facts) for each in findings):
        if name in _ATTENTION:
            orders.setdefault((arch, model, "attention"), set()).add(facts.order)
        elif linear := _ROWS_OF_LINEAR.match(name.replace(" sums,", " linear,")):
            # Each has its k in order: what is left is the instruction. How many rows it has plays no part in a sum.
            orders.setdefault((arch, model, linear[1]), set()).add(facts.products)
    return [
        f"sm_{arch} {model}: few and many rows of {what} sum in other orders: {' / '.join(map(str, found))}"
        for (arch, model, what), found in orders.items() if len(found) > 1
    ]  # fmt: skip


def launches_of(model: Model, arch: int) -> list[Launch]:
    """All of a model; with block-quantised weights and adapters for the one that stands for all."""
    others = block_launches(model, arch) + adapter_launches(model, arch) if model == LLAMA_8B else []
    others += expert_launches(model, arch) if model.experts else []
    every = attention_launches(model, arch) + row_launches(model, arch) + linear_launches(model, arch)
    every += [] if model.qk_norm else qkv_launches(model, arch)
    return every + others


def audit(archs: list[int], models: list[str]) -> Iterator[Finding]:
    """Compile and read the launches of some models, and of the sampler, for some architectures."""
    for arch in archs:
        for model in MODELS:
            if model.name in models and not (model.fp8_cache and arch < FP8_FROM):
                for launch in launches_of(model, arch):
                    yield Finding(model.name, launch, arch, compile_and_read(launch, arch))
        for launch in sampler_launches(arch):
            yield Finding("any", launch, arch, compile_and_read(launch, arch))


def snapshot() -> Iterator[Finding]:
    """The few that stand for all: a test compares them with a committed file."""
    models = {model.name: model for model in MODELS}
    for arch, name, wanted in SNAPSHOT:
        for launch in launches_of(models[name], arch):
            if launch.name in wanted:
                yield Finding(name, launch, arch, compile_and_read(launch, arch))


def roof(finding: Finding) -> str:
    """The least time of a launch on the architecture's card, and what bounds it; empty where no work was counted."""
    launch, gpu = finding.launch, AUDITED_GPUS[finding.arch]
    if not launch.traffic_bytes:
        return ""
    memory_us = launch.traffic_bytes / gpu.memory_gb_s * 1e-3
    math_us = launch.flops / gpu.dense_tflops * 1e-6
    bound = "memory" if memory_us >= math_us else "math"
    return (
        f"{launch.traffic_bytes / 1e6:.1f} MB, {launch.flops / 1e9:.1f} GFLOP: {max(memory_us, math_us):.1f} us {bound}"
    )


def describe(finding: Finding) -> str:
    """One line: where, and every fact."""
    facts = finding.facts
    loads, stores = (
        " ".join(f"{width}B:{count}" for width, count in widths.items()) or "-"
        for widths in (facts.loads, facts.stores)
    )
    return (
        f"sm_{finding.arch:<4}{finding.model:<23}{finding.launch.name:<27} "
        f"regs {facts.registers:<4} spill {facts.stack_bytes:<4} shared {facts.shared_bytes:<7} "
        f"blocks {facts.blocks:<3} buffers {facts.buffers}  mma {facts.mma:<4} async {facts.async_copies:<4} "
        f"loads {loads}  stores {stores}"
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m headwater.bench.device.audit", description=__doc__)
    names = [model.name for model in MODELS]
    parser.add_argument("--arch", type=int, choices=list(AUDITED_GPUS), nargs="+", default=list(AUDITED_GPUS))
    parser.add_argument("--model", choices=names, nargs="+", default=names)
    parser.add_argument("--snapshot", action="store_true", help="only what tests/bench/device/audit_snapshot.txt holds")
    arguments = parser.parse_args()
    broken = 0
    findings = []
    for finding in snapshot() if arguments.snapshot else audit(arguments.arch, arguments.model):
        findings.append(finding)
        print(f"{describe(finding):<176} {roof(finding)}".rstrip(), flush=True)
        for problem in problems(finding):
            print(f"    BROKEN: {problem}", flush=True)
            broken += 1
    for problem in order_problems(findings):
        print(f"    BROKEN: {problem}", flush=True)
        broken += 1
    print(f"{broken} rules broken")
    return 1 if broken else 0


if __name__ == "__main__":
    if knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: kernels would be interpreted, not compiled")
    sys.exit(main())
