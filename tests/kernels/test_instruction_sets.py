"""Every instruction set that this machine can run computes what its best does: right, and each row by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.kernels import Unsupported, instruction_sets
from headwater.kernels.cpu.features import SET, numerics
from headwater.kernels.instruction_sets import TABLE, choose_set, runnable_sets

from .test_block_linear import int8_digest

ROOT = Path(__file__).parents[2]
BEST, *OTHERS = (row.name for row in runnable_sets())
FOREIGN = next(row.name for row in TABLE if row.name not in (BEST, *OTHERS))

PRODUCTS = """
import sys, torch
sys.path.append(sys.argv[2])
from headwater.kernels import load_backend
cpu = load_backend("cpu")
from headwater.kernels.cpu.features import SET, numerics
assert SET.name == sys.argv[1]
from tests.kernels.attention_case import Case, Options, assert_close
from tests.kernels.test_block_linear import BlockLinear, check, int8_digest, random_weight

torch.manual_seed(0)
for form in ("Q4_1", "IQ4_XS"):
    weight = random_weight(form, 48, 256)
    check(BlockLinear([weight]), weight.dequantized(), torch.randn(71, 256, dtype=torch.bfloat16))

weight, x = torch.randn(64, 256).bfloat16(), torch.randn(71, 256).bfloat16()
linears = cpu.pack_linear(weight), cpu.quantize_linear(weight)
assert torch.allclose(linears[0](x), x.float() @ weight.float().T, atol=1e-3)
for linear in linears:
    y = linear(x)
    for first, count in ((0, 1), (3, 2), (5, 3), (8, 31)):
        assert torch.equal(linear(x[first : first + count]), y[first : first + count])

def case():
    torch.manual_seed(0)
    return Case(cpu, torch.bfloat16, 3, 64, 16, [600, 40], Options())

whole = case().step([(0, 600), (0, 40)])
in_chunks = case()
parts = [in_chunks.step([rows, (0, 0)])[0] for rows in ((0, 100), (100, 599), (599, 600))]
assert_close(whole[0], in_chunks.oracle(0), 5e-3)
assert torch.equal(torch.cat(parts), whole[0])

print(numerics())
print(int8_digest() if SET.byte_dot else "")
"""


def run(program: str, *arguments: str, **environment: str) -> list[str]:
    command = [sys.executable, "-P", "-c", program, *arguments]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().splitlines()


@pytest.mark.parametrize("name", OTHERS)
def test_products_and_attention_of_every_set_that_this_machine_has(name: str) -> None:
    made_for, digest = run(PRODUCTS, name, str(ROOT), HEADWATER_CPU_FEATURES=name)
    assert made_for != numerics()  # the key of what is compiled
    # Whole numbers, then fp32 in order: the same bits whatever the instructions.
    assert digest in ("", int8_digest())


def test_a_set_is_chosen_once() -> None:
    assert choose_set(SET.name).set is SET
    with pytest.raises(Unsupported, match="made for"):
        choose_set(FOREIGN)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_processor_with_just_what_a_set_needs_gets_it(row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets, "_machine", lambda: row.machine)
    monkeypatch.setattr(instruction_sets, "_host_features", lambda: frozenset(row.needs))
    assert runnable_sets()[0] is row
