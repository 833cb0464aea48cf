"""What the compiler makes of the kernels, without a GPU: the rules, and a snapshot that shows what a change did."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.bench.device.audit.__main__ import Finding, order_problems, problems
from headwater.bench.device.audit.binary import Facts
from headwater.bench.device.audit.launches import Launch

SNAPSHOT = Path(__file__).with_name("audit_snapshot.txt")
LAUNCH = Launch("a kernel", None, {}, {}, {}, {}, flops=1, min_blocks=2)
SOUND = Facts(
    has_loop=True,
    registers=128,
    stack_bytes=0,
    loop_spills=0,
    shared_bytes=48 << 10,
    blocks=4,
    loads={4: 2, 16: 8},
    stores={16: 2},
    async_copies=8,
    mma=16,
    buffers=2,
)


def run_without_interpreter(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=500, check=False
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stack_bytes": 8}, "spilled"),
        ({"loop_spills": 1}, "spilled"),
        ({"shared_bytes": 100 << 10}, "shared memory"),
        ({"blocks": 1}, "blocks fit"),
        ({"loads": {2: 1, 16: 8}}, "1 or 2 bytes"),
        ({"buffers": 1}, "on its way"),
        ({"mma": 0}, "traps"),
    ],
)
def test_a_broken_rule_is_named(change, problem):
    assert problems(Finding("a model", LAUNCH, 120, SOUND)) == []
    (found,) = problems(Finding("a model", LAUNCH, 120, SOUND._replace(**change)))
    assert problem in found


def test_linears_that_multiply_with_other_instructions_when_rows_are_many_are_named():
    few, many = (LAUNCH._replace(name=f"bf16 linear, {rows} rows") for rows in (16, 2048))
    facts = SOUND._replace(products=("HGMMA.x16.F32.BF16",))
    findings = [Finding("a model", few, 90, facts), Finding("a model", many, 90, facts)]
    assert order_problems(findings) == []
    findings.append(Finding("a model", few, 90, facts._replace(products=("HMMA.16816.F32.BF16",))))
    (found,) = order_problems(findings)
    assert "bf16 linear sum in other orders" in found


BAD_TILE = """
from headwater.bench.device.audit.__main__ import Finding, problems
from headwater.bench.device.audit.binary import compile_and_read
from headwater.bench.device.audit.launches import attention_launches
from headwater.bench.device.shapes import LLAMA_8B
from headwater.kernels.triton.tiles import TILES, Tile

TILES[80, 128] = (TILES[80, 128][0], Tile(rows=128, positions=128, warps=4, stages=2, blocks=1))
launch = next(launch for launch in attention_launches(LLAMA_8B, 80) if launch.name == "attention many rows")
print(*problems(Finding(LLAMA_8B.name, launch, 80, compile_and_read(launch, 80))), sep="\\n")
"""


def test_a_tile_that_does_not_fit_is_found():
    done = run_without_interpreter("-c", BAD_TILE)
    assert done.returncode == 0, done.stderr
    assert "spilled registers where it matters" in done.stdout
    assert "not on its way" in done.stdout


def test_the_snapshot_still_holds():
    """Where a change was meant to show here: send the output to audit_snapshot.txt and read the diff."""
    done = run_without_interpreter("-m", "headwater.bench.device.audit", "--snapshot")
    assert done.stdout == SNAPSHOT.read_text(), done.stderr
    assert done.returncode == 0
