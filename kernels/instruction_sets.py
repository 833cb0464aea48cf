"""Instruction sets of processors as data: what the CPU kernels' tiles look like on each, and which one is used.

A row says what the host must have, which product classes multiply (kernels/cpu/bf16_dots.py, byte_dots.py) and how
tiles are cut. A new set is one row, and one class where it has an instruction of its own. Nothing here imports Numba:
what a set hides must be hidden before that.
"""

import os
import platform
import sys
from dataclasses import dataclass
from typing import NamedTuple

from . import Unsupported

VARIABLE = "HEADWATER_CPU_FEATURES"
Heights = tuple[int, ...]  # of tiles, the tallest first, down to 1


@dataclass(frozen=True)
class Tiles:
    """Rows of the tiles, by the number of panels of 16 outputs beside them.

    Attributes:
        wide: whether a tile has several panels as a rule, and few rows read six; else one panel passes 4 rows.
        blocks, int8: of block-quantised weights with bf16 or fp32 rows, and with int8 rows: as they are packed, and of
            records that were widened for many rows ({}: never).
    """

    wide: bool
    blocks: tuple[dict[int, Heights], dict[int, Heights]]
    int8: tuple[dict[int, Heights], dict[int, Heights]]


# 32 registers of 16 lanes: 8 x 3 sums, 3 weights and a row are 28. Of widened blocks 4 x 3: sums of a group and of all
# groups are in registers; without a dot product of bf16, widening for many rows gains nothing.
_DOT_512 = Tiles(True, ({3: (8, 4, 1), 6: (2, 1)}, {3: (4, 1)}), ({3: (4, 1), 6: (2, 1)}, {3: (4, 1)}))
_FMA_512 = Tiles(True, ({3: (8, 4, 1), 6: (2, 1)}, {}), _DOT_512.int8)
# 16 registers of 8 lanes, or 32 of 4: 4 x 1 sums are 8 (16) of them, twice the latency of a multiply-add.
_NARROW = Tiles(False, ({1: (4, 3, 2, 1), 2: (1,)}, {1: (4, 1)}), ({1: (4, 1), 2: (1,)}, {1: (4, 1)}))


@dataclass(frozen=True)
class InstructionSet:
    """A row of the table.

    Attributes:
        name: what ``--cpu-features`` takes.
        machine: x86_64 or aarch64.
        needs: LLVM's names of the features without which it doesn't run.
        why: it looks as it does.
        width: of a register, in bits.
        tiles: how they are cut.
        bf16_dot, byte_dot, byte_lookup: product class or instruction, None: there is none.
        word_lookup: whether a table of 32 or 64 words is looked up in registers (``vpermw``).
        amx: whether tile registers multiply bf16 rows.
        proof: LLVM's names of processors that the audit compiles it for.
    """

    name: str
    machine: str
    needs: tuple[str, ...]
    why: str
    width: int
    tiles: Tiles
    bf16_dot: str | None = None
    byte_dot: str | None = None
    byte_lookup: str | None = None
    word_lookup: bool = False
    amx: bool = False
    proof: tuple[str, ...] = ()

    @property
    def dots_blocks(self) -> bool:
        """Whether codes of block-quantised weights become bf16 pairs for the dot product: a lookup makes them at once.
        Without it two fp32 conversions are less work than making pairs, and rows are widened.
        """
        return self.bf16_dot is not None and self.word_lookup


_V2 = ("sse4.2",)
_AVX2 = (*_V2, "avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_VNNI = (*_AVX512, "avx512vnni")
_BF16 = (*_VNNI, "avx512bf16")
_AMX = (*_BF16, "amx-tile", "amx-bf16")

# The first that the host has is used.
TABLE = (
    InstructionSet(
        "amx", "x86_64", _AMX,
        "tile registers from 3 rows on, 5 to 6 times AVX512-BF16 from 32 rows on; all else as there",
        512, _DOT_512, "vdpbf16ps", "vpdpbusd_512", "vpshufb_512", word_lookup=True, amx=True,
        proof=("sapphirerapids",),
    ),
    InstructionSet(
        "avx512-bf16", "x86_64", _BF16,
        "one vdpbf16ps does 32 multiply-adds: weights are never widened, few accumulators wait for nothing",
        512, _DOT_512, "vdpbf16ps", "vpdpbusd_512", "vpshufb_512", word_lookup=True, proof=("znver4", "cooperlake"),
    ),
    InstructionSet(
        "avx512-vnni", "x86_64", _VNNI,
        "bf16 by fp32 multiply-adds; int8 rows by vpdpbusd, four products of 16 lanes in one instruction",
        512, _FMA_512, None, "vpdpbusd_512", "vpshufb_512", word_lookup=True, proof=("icelake-server",),
    ),
    InstructionSet(
        "avx512", "x86_64", _AVX512,
        "32 registers of 16 lanes; products of bytes by vpmaddubsw of 32 bytes: what AVX2 does, exact as well",
        512, _FMA_512, None, "vpmaddubsw", "vpshufb_512", word_lookup=True, proof=("skylake-avx512",),
    ),
    InstructionSet(
        "avx-vnni", "x86_64", (*_AVX2, "avxvnni"),
        "as avx2, but one vpdpbusd in place of vpmaddubsw, vpmaddwd and an addition",
        256, _NARROW, None, "vpdpbusd_256", "vpshufb", proof=("alderlake",),
    ),
    InstructionSet(
        "avx2", "x86_64", _AVX2,
        "16 registers of 8 lanes; rows are widened once for all panels, codes are multiplied where they lie",
        256, _NARROW, None, "vpmaddubsw", "vpshufb", proof=("haswell", "znver3"),
    ),
    InstructionSet(
        "x86-64-v2", "x86_64", _V2,
        "no multiply-add instruction: the C library's fmaf gives the same bits as avx2, a hundred times as slowly",
        128, _NARROW,
    ),
    InstructionSet(
        "neon-bf16", "aarch64", ("neon", "dotprod", "bf16"),
        "bfdot does two multiply-adds a lane, as vdpbf16ps; bfmmla and smmla would do four, but want rows in pairs and "
        "panels in another order, which is for who can measure it",
        128, _NARROW, "bfdot", "sdot", "tbl", proof=("neoverse-v1", "apple-m2"),
    ),
    InstructionSet(
        "neon-dot", "aarch64", ("neon", "dotprod"),
        "32 registers of 4 lanes hold what AVX2's 16 of 8 do; bf16 by a shift and fmla, bytes by sdot, four a lane",
        128, _NARROW, None, "sdot", "tbl", proof=("neoverse-n1", "apple-m1"),
    ),
    InstructionSet(
        "neon", "aarch64", ("neon",),
        "as neon-dot; bytes by smull and sadalp, two products at a time",
        128, _NARROW, None, "smull", "tbl", proof=("cortex-a72",),
    ),
)  # fmt: skip

# Kept beside what a set needs: none of these brings vectors with it.
_PLAIN = ("adx", "bmi", "bmi2", "cx16", "cx8", "fxsr", "lzcnt", "movbe", "popcnt", "prfchw", "sahf", "lse", "crc")


class Choice(NamedTuple):
    """The set that is used, and why."""

    set: InstructionSet
    reason: str


_choice: Choice | None = None


def choose_set(wanted: str | None = None) -> Choice:
    """The set of this process: ``wanted``, or what the environment wants, or the best that the host has.

    Later calls get what the first chose. One that is less than the host's hides the rest from Numba and LLVM, too.
    Raises Unsupported for a set that is not in the table or that the host can't run.
    """
    global _choice
    wanted = wanted or os.environ.get(VARIABLE) or None
    if _choice is None:
        _choice = _choose(wanted)
    elif wanted is not None and wanted != _choice.set.name:
        raise Unsupported(f"CPU features {wanted}: the kernels of this process were made for {_choice.set.name} before")
    return _choice


def compile_for(name: str) -> InstructionSet:
    """Make the kernels' code for a set that the host may lack, in a process that runs none of them."""
    global _choice
    assert "headwater.kernels.cpu" not in sys.modules, "the kernels were imported before"
    os.environ.pop(VARIABLE, None)
    (row,) = (row for row in TABLE if row.name == name)
    _choice = Choice(row, "to be compiled, not run")
    return row


def runnable_sets() -> list[InstructionSet]:
    """Those that the host can run, the best first."""
    features = _host_features()
    return [row for row in TABLE if row.machine == _machine() and all(need in features for need in row.needs)]


def _choose(wanted: str | None) -> Choice:
    from llvmlite import binding

    runnable = runnable_sets()
    if not runnable:
        raise Unsupported(f"no CPU kernels for this processor: {platform.machine()}, {binding.get_host_cpu_name()}")
    best = runnable[0]
    if wanted is None:
        return Choice(best, f"the best that this processor has ({binding.get_host_cpu_name()})")
    found = [row for row in TABLE if row.name == wanted]
    names = ", ".join(row.name for row in runnable)
    if not found:
        raise Unsupported(f"CPU features {wanted}: unknown; this processor has {names}")
    if found[0] not in runnable:
        raise Unsupported(f"CPU features {wanted}: this processor lacks {_lacking(found[0])}; it has {names}")
    os.environ[VARIABLE] = wanted  # for processes that this one starts
    if found[0] is not best:
        _hide_all_but(found[0])
        return Choice(found[0], f"asked for; this processor has {best.name}")
    return Choice(best, "asked for; it is the best that this processor has")


def _lacking(row: InstructionSet) -> str:
    if row.machine != _machine():
        return f"them: it is {_machine()}"
    features = _host_features()
    return ", ".join(need for need in row.needs if need not in features)


def _machine() -> str:
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _host_features() -> frozenset[str]:
    from llvmlite import binding

    try:
        features = {name for name, has in binding.get_host_cpu_features().items() if has}
    except RuntimeError:  # LLVM can't ask this system
        features = set()
    if _machine() == "aarch64":
        features.add("neon")
        if sys.platform == "darwin":  # all of Apple's have sdot, and bf16 from the second on
            features.add("dotprod")
            if binding.get_host_cpu_name() not in ("apple-m1", "generic"):
                features.add("bf16")
    return frozenset(features)


def _hide_all_but(row: InstructionSet) -> None:
    """Numba's kernels, and their cache's keys, are for a processor of just that set."""
    features = _host_features()
    kept = [*row.needs, *(name for name in _PLAIN if name in features)]
    os.environ["NUMBA_CPU_NAME"] = "x86-64" if row.machine == "x86_64" else "generic"
    os.environ["NUMBA_CPU_FEATURES"] = ",".join(f"+{name}" for name in kept)
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()
