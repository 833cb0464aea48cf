"""What LLVM makes of the CPU kernels for processors that are not here: the rules, a snapshot, and aarch64 in qemu."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.bench.device.cpu_audit.__main__ import problems
from headwater.bench.device.cpu_audit.assembly import Facts, read
from headwater.bench.device.cpu_audit.run import COMPILER, EMULATOR
from headwater.kernels.instruction_sets import TABLE

SNAPSHOT = Path(__file__).with_name("cpu_audit_snapshot.txt")
NEON_BF16 = next(row for row in TABLE if row.name == "neon-bf16")
SOUND = Facts(instructions=25, products={"bfdot": 16}, loads={32: 4, 128: 4}, spills=0, calls=0)


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "headwater.bench.device.cpu_audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"products": {"fmla": 32}}, "multiplies with fmla"),
        ({"products": {}}, "multiplies with nothing"),
        ({"loads": {32: 4, 64: 8}}, "64 bits of 128"),
        ({"spills": 3}, "spilled"),
        ({"calls": 1}, "calls"),
    ],
)
def test_a_broken_rule_is_named(change: dict, problem: str) -> None:
    assert problems(NEON_BF16, "bf16 x bf16 4x1", SOUND) == []
    (found,) = problems(NEON_BF16, "bf16 x bf16 4x1", SOUND._replace(**change))
    assert problem in found


def test_the_innermost_loop_is_what_counts() -> None:
    text = """
tile:
	stp	d9, d8, [sp, #-32]!             // 16-byte Folded Spill
.LBB0_1:                                // =>This Loop Header: Depth=1
	ldr	q9, [sp, #16]
.LBB0_2:                                //   Parent Loop BB0_1 Depth=1
                                        // =>  This Inner Loop Header: Depth=2
	ldp	q25, q26, [x2]
	ld1r	{ v24.4s }, [x0], #4
	bfdot	v0.4s, v24.8h, v25.8h
	str	q0, [sp, #32]                   // 16-byte Folded Spill
	b.ne	.LBB0_2
// %bb.3:                               //   in Loop: Header=BB0_1 Depth=1
	fmla	v0.4s, v1.4s, v2.4s
"""
    assert read(text, "aarch64") == Facts(5, {"bfdot": 1}, {32: 1, 128: 2}, 1, 0)


@pytest.mark.parametrize("name", ["neon-bf16", "avx512-bf16"])
def test_tiles_are_compiled_to_what_they_were(name: str) -> None:
    done = audit("--snapshot", "--set", name)
    assert done.returncode == 0, done.stderr
    known = [line for line in SNAPSHOT.read_text().splitlines() if line.split()[0] == name]
    assert done.stdout.splitlines() == known


@pytest.mark.skipif(not (shutil.which(EMULATOR) and shutil.which(COMPILER)), reason="no qemu-user or compiler for it")
def test_tiles_for_aarch64_compute_what_this_processor_does() -> None:
    done = audit("--run", "--snapshot", "--set", "neon-bf16")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line[24:].rsplit("  ", 1)[0].strip(): line.split("  ")[-1].strip() for line in done.stdout.splitlines()}
    assert found["Q4_K int8 4x1"] == "same bits"
    assert found["bf16 x bf16 4x1"] == "near"  # bfdot rounds its sums to odd
