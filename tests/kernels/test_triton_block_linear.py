"""The Triton kernel of block-quantised weights in the interpreter: the products and rows of the described weights.

The interpreter has no bf16 products and no PTX: what widens codes on a GPU is evaluated here line by line.
"""

from dataclasses import replace

import pytest
import torch
import triton.language as tl

from headwater.bench.device.gpu.interpreted import dots_in_steps
from headwater.kernels import load_backend
from headwater.kernels.block_weight import E2M1_DOUBLED, BlockWeight, Scales
from headwater.kernels.triton.block_form import form_of
from headwater.kernels.triton.block_tiles import segments_of
from headwater.kernels.triton.block_widen import pairs_asm

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# bits, group, scales are a super-block's times steps, zero point, minimum, table, bits of a weight in the file
FORMS = {
    "Q4_0": (4, 32, False, 8, False, None, 4.5),
    "Q4_1": (4, 32, False, 0, True, None, 5),
    "Q5_0": (5, 32, False, 16, False, None, 5.5),
    "Q5_1": (5, 32, False, 0, True, None, 6),
    "Q8_0": (8, 32, False, 128, False, None, 8.5),
    "Q2_K": (2, 16, True, 0, True, None, 2.625),
    "Q3_K": (3, 16, True, 4, False, None, 3.4375),
    "Q4_K": (4, 32, True, 0, True, None, 4.5),
    "Q5_K": (5, 32, True, 0, True, None, 5.5),
    "Q6_K": (6, 16, True, 32, False, None, 6.5625),
    "IQ4_NL": (4, 32, False, 0, False, IQ4, 4.5),
    "IQ4_XS": (4, 32, True, 0, False, IQ4, 4.25),
    "MXFP4": (4, 32, False, 0, False, E2M1_DOUBLED, 4.25),
    "GPTQ, 2 bits": (2, 64, False, None, False, None, 2.28125),
    "GPTQ, 3 bits": (3, 128, False, None, False, None, 3.1484375),
    "GPTQ, 4 bits": (4, 128, False, None, False, None, 4.15625),
    "GPTQ, 8 bits": (8, 128, False, None, False, None, 8.1875),
    "AWQ, groups of 32": (4, 32, False, None, False, None, 4.625),
    "symmetric, 8 bits, a scale each output": (8, 512, False, 128, False, None, 8.03125),
    "symmetric, 4 bits, groups of 16": (4, 16, False, 8, False, None, 5),
}
EPSILON = {torch.float32: 2.0**-22, torch.float16: 2.0**-10}


def random_weight(form: str, outputs: int, inputs: int = 512, base: torch.dtype = torch.float16) -> BlockWeight:
    bits, group, stepped, zero, minimum, table, _ = FORMS[form]
    lowest, highest = (0, 16) if bits == 2 else (-32, 64)

    def scales() -> Scales:
        groups = inputs // group
        if not stepped:
            return Scales((torch.rand(outputs, groups) / 100).to(base))
        steps = torch.randint(lowest, highest, (outputs, groups), dtype=torch.int8)
        return Scales((torch.rand(outputs, inputs // 256) / 1000).to(base), steps)

    zeros = torch.randint(0, (1 << bits) + 1, (outputs, inputs // group), dtype=torch.int16) if zero is None else zero
    codes = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8)
    return BlockWeight(codes, bits, group, scales(), zeros, scales() if minimum else None, table)


def pack(*parts: BlockWeight, bias: torch.Tensor | None = None):
    return load_backend("triton").pack_blocks(parts, bias, torch.float32, torch.device("cpu"))


def check(linear, weight: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Off by the rounding of what comes out, and what fp32 sums may be off by."""
    want = x.double() @ weight.double().T
    if bias is not None:
        want += bias.double()
    bound = EPSILON[x.dtype] * want.abs() + 2e-6 * (x.double().abs() @ weight.double().abs().T)
    got = linear(x)
    assert got.dtype == x.dtype
    assert ((got.double() - want).abs() <= bound).all()


@pytest.mark.parametrize("form", FORMS)
def test_products_and_rows_are_those_of_the_described_weights(form: str) -> None:
    torch.manual_seed(0)
    weight = random_weight(form, 72)  # two tiles and a part of one
    linear = pack(weight)
    dense = weight.dequantized()
    for rows, dtype in ((1, torch.float16), (17, torch.float32)):
        check(linear, dense, torch.randn(rows, 512, dtype=dtype))
    token_ids = torch.tensor([71, 0, 5, 5])
    embedded = load_backend("triton").embed(linear, token_ids, 0.5, torch.float32)
    assert torch.equal(embedded, dense[token_ids] * 0.5)


@pytest.mark.parametrize("form", ["Q4_1", "Q5_0", "Q8_0", "AWQ, groups of 32"])
@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32])
def test_inputs_need_not_fill_a_block(form: str, base: torch.dtype) -> None:
    torch.manual_seed(1)
    weight = random_weight(form, 33, 96, base)
    for rows in (2, 20):
        check(pack(weight), weight.dequantized(), torch.randn(rows, 96))
    token_ids = torch.arange(33)
    assert torch.equal(pack(weight).embed(token_ids, 1.0, torch.float32), weight.dequantized())


def test_one_scale_may_be_for_inputs_that_no_power_of_two_divides() -> None:
    torch.manual_seed(2)
    weight = BlockWeight(torch.randint(16, (33, 96), dtype=torch.uint8), 4, 96, Scales(torch.rand(33, 1)), 8)
    check(pack(weight), weight.dequantized(), torch.randn(2, 96))


def test_weights_of_several_forms_and_orders_become_one_linear_with_a_bias() -> None:
    torch.manual_seed(3)
    parts = [random_weight(form, 40) for form in ("Q4_K", "Q4_K", "Q6_K", "GPTQ, 4 bits")]
    parts[3] = replace(parts[3], order=torch.randperm(512))
    bias = torch.randn(160)
    weight = torch.cat([part.dequantized() for part in parts])
    for rows in (2, 17):
        check(pack(*parts, bias=bias), weight, torch.randn(rows, 512), bias)
    token_ids = torch.tensor([3, 39])
    assert torch.equal(pack(parts[3]).embed(token_ids, 1.0, torch.float32), parts[3].dequantized()[token_ids])


@pytest.mark.parametrize("form", ["Q4_K", "Q6_K", "GPTQ, 4 bits"])
def test_a_row_has_the_same_bits_in_all_tiles(form: str) -> None:
    """Two segments: summed by a program each, and by one; rows summed before, and with the products."""
    torch.manual_seed(4)
    linear, x = pack(random_weight(form, 16, 1280)), torch.randn(65, 1280, dtype=torch.float16)
    assert segments_of(16, 1280) == (2, 1024)
    with dots_in_steps():
        whole = linear(x)
        for first, count in ((3, 1), (8, 17), (20, 40)):
            assert torch.equal(linear(x[first : first + count]), whole[first : first + count])


def test_memory_is_hardly_more_than_the_files() -> None:
    for form, (*_, bits) in FORMS.items():
        assert pack(random_weight(form, 48, 4096)).nbytes * 8 / (48 * 4096) <= 1.06 * bits, form


def run_asm(asm: str, operands: dict[str, int], dtype: torch.dtype) -> list[float]:
    """The two numbers that a block of PTX leaves in $0."""
    registers = dict(operands)

    def value(name: str) -> int:
        return int(name, 16) if name.startswith("0x") else int(name) if name.isdigit() else registers[name]

    def halves(name: str) -> torch.Tensor:
        return torch.tensor([value(name)]).to(torch.uint32).view(dtype).double()

    for line in asm.strip("{ }").split("; ")[1:]:
        name, first, *rest = line.strip("; ").replace(",", "").split()
        match name.split("."):
            case ["mov", "b32"]:
                registers[first] = value(rest[0])
            case ["shr", "b32"]:
                registers[first] = value(rest[0]) >> value(rest[1])
            case ["shl", "b32"]:
                registers[first] = value(rest[0]) << value(rest[1]) & 0xFFFFFFFF
            case ["lop3", "b32"]:
                assert rest[3] == "0xEA"
                registers[first] = value(rest[0]) & value(rest[1]) | value(rest[2])
            case ["fma", "rn", kind]:
                assert kind == {torch.bfloat16: "bf16x2", torch.float16: "f16x2"}[dtype]
                exact = halves(rest[0]) * halves(rest[1]) + halves(rest[2])
                assert torch.equal(exact.to(dtype).double(), exact)  # nothing was rounded
                registers[first] = int(exact.to(dtype).view(torch.int32).item()) & 0xFFFFFFFF
            case _:
                raise AssertionError(line)
    return halves("$0").tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "form", ["Q4_0", "Q5_0", "Q5_K", "Q2_K", "Q3_K", "Q6_K", "Q8_0", "MXFP4", "GPTQ, 4 bits", "GPTQ, 8 bits"]
)
def test_the_ptx_makes_every_code_the_number_that_it_is(form: str, dtype: torch.dtype) -> None:
    block_form = form_of(random_weight(form, 16))
    low, high = block_form.low_bits, block_form.high_bits
    offset, zero = (128 if dtype == torch.bfloat16 else 1024), block_form.zero
    if block_form.bits == 8 and dtype == torch.bfloat16:
        offset = 0
    for part in range(16 // (high or low)):
        asm = pairs_asm(tl.bfloat16 if dtype == torch.bfloat16 else tl.float16, block_form, part)
        for code in range(1 << block_form.bits):
            other = (5 * code + 3) % (1 << block_form.bits)
            if block_form.zeros:
                zero = code % 9 + (248 if block_form.bits == 8 else 0)
            operands = {"$1": 0x5A5A5A5A, "$2": 0xC3C3C3C3}  # the words' other bits have to be left out
            for name, bits, shift in (("$1", low, 0), ("$2", high, low)):
                mask, at = (1 << bits) - 1, bits * part % 16
                for half, its in ((0, code), (16, other)):
                    operands[name] &= ~(mask << at + half)
                    operands[name] |= (its >> shift & mask) << at + half
            minus = torch.tensor([-offset - zero] * 2, dtype=dtype).view(torch.int32).item()
            operands["$3"] = int(minus) & 0xFFFFFFFF
            values = E2M1_DOUBLED if block_form.is_e2m1 else range(256)
            assert run_asm(asm, operands, dtype) == [values[code] - zero, values[other] - zero]
