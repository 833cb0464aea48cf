"""Products with block-quantised weights are those of the described weights, and a row's do not depend on its batch."""

import hashlib

import pytest
import torch

from headwater.kernels.block_weight import BlockWeight, Scales
from headwater.kernels.cpu.block_linear import BlockLinear

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
ROWS = 71  # an item of 64, and tiles of 4, 2 and 1
# bits, group, scales are multiples of a super-block's, zero point, minimum, table
FORMS = {
    "Q4_0": (4, 32, False, 8, False, None),
    "Q4_1": (4, 32, False, 0, True, None),
    "Q5_0": (5, 32, False, 16, False, None),
    "Q5_1": (5, 32, False, 0, True, None),
    "Q8_0": (8, 32, False, 128, False, None),
    "Q2_K": (2, 16, True, 0, True, None),
    "Q3_K": (3, 16, True, 4, False, None),
    "Q4_K": (4, 32, True, 0, True, None),
    "Q5_K": (5, 32, True, 0, True, None),
    "Q6_K": (6, 16, True, 32, False, None),
    "IQ4_XS": (4, 32, True, 0, False, IQ4),
    "GPTQ, 4 bits": (4, 128, False, None, False, None),
    "GPTQ, 8 bits": (8, 128, False, None, False, None),
}


def random_weight(form: str, outputs: int, inputs: int, base: torch.dtype = torch.float16) -> BlockWeight:
    bits, group, stepped, zero, minimum, table = FORMS[form]

    def scales() -> Scales:
        groups = inputs // group
        if not stepped:
            return Scales((torch.rand(outputs, groups) / 100).to(base))
        steps = torch.randint(-32, 64, (outputs, groups), dtype=torch.int8)
        return Scales((torch.rand(outputs, inputs // 256) / 1000).to(base), steps)

    zeros = torch.randint(0, 1 << bits, (outputs, inputs // group), dtype=torch.int16) if zero is None else zero
    codes = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8)
    return BlockWeight(codes, bits, group, scales(), zeros, scales() if minimum else None, table)


def error(got: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Largest difference from the product in fp64, as a part of what it could be at most."""
    want = x.double() @ weight.double().T
    bound = x.double().abs() @ weight.double().abs().T
    return ((got.double() - want).abs() / bound).max().item()


def check(linear: BlockLinear, weight: torch.Tensor, x: torch.Tensor) -> None:
    y = linear(x)
    assert error(y, x, weight) < 2e-6
    check_rows(linear, x)


def check_rows(linear: BlockLinear, x: torch.Tensor) -> None:
    """A row's product is the same with any number of rows."""
    y = linear(x)
    for rows in (1, 2, 3, 5, 8, 12, 23, 64):
        assert torch.equal(linear(x[:rows].contiguous()), y[:rows]), rows


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Rows as products with int8 take them, by the interface's formula; fp64."""
    blocks = x.float().view(len(x), -1, 32)
    largest = blocks.abs().amax(-1, keepdim=True)
    scale = torch.where(largest < 2.0**-100, 0, largest / 127)
    codes = torch.where(scale > 0, (blocks / scale).round(), 0)
    return (scale.double() * codes).view_as(x)


def check_int8(linear: BlockLinear, weight: torch.Tensor, x: torch.Tensor) -> None:
    y = linear(x)
    assert error(y, rounded(x), weight) < 2e-6
    assert not torch.equal(y.double(), x.double() @ weight.double().T)
    check_rows(linear, x)


# The others' codes lie as those of one of these.
@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("Q5_0", "GPTQ, 4 bits")])
def test_products_are_those_of_the_described_weights(form: str) -> None:
    torch.manual_seed(0)
    weight = random_weight(form, 104, 512)  # two panels in the last tile, the second half empty
    linear = BlockLinear([weight])
    check(linear, weight.dequantized(), torch.randn(ROWS, 512, dtype=torch.bfloat16))
    if form in ("Q5_1", "Q8_0", "Q3_K", "Q6_K", "IQ4_XS"):
        token_ids = torch.randint(0, 104, (7,))
        assert torch.equal(linear.embed(token_ids, 0.5), weight.dequantized()[token_ids] * 0.5)


@pytest.mark.parametrize("form", ["Q4_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "GPTQ, 8 bits"])
def test_products_with_int8_rows_are_those_of_the_rounded_rows(form: str) -> None:
    torch.manual_seed(6)
    weight = random_weight(form, 104, 512)
    x = torch.randn(ROWS, 512) * torch.logspace(-3, 3, 512)[torch.randperm(512)]
    x[2, 64:96], x[3, 32:64] = 0.0, 2.0**-101
    check_int8(BlockLinear([weight], rounds_rows=True), weight.dequantized(), x.bfloat16())


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    torch.manual_seed(7)
    linear = BlockLinear([random_weight("Q4_0", 48, 96)], rounds_rows=True)
    x = torch.randn(ROWS, 96)
    want = linear(x)
    x[1, 40], x[6, 0] = float("nan"), float("-inf")
    y = linear(x)
    assert not y[[1, 6]].isfinite().any()
    others = [row for row in range(ROWS) if row not in (1, 6)]
    assert torch.equal(y[others], want[others])


def test_rows_may_be_fp32_and_scales_bf16() -> None:
    torch.manual_seed(1)
    weight = random_weight("Q4_1", 48, 96, torch.bfloat16)  # records of one chunk
    linear = BlockLinear([weight])
    check(linear, weight.dequantized(), torch.randn(ROWS, 96))
    token_ids = torch.arange(48)
    assert torch.equal(linear.embed(token_ids, 1.0), weight.dequantized())


def test_weights_of_several_forms_and_orders_become_one_linear() -> None:
    torch.manual_seed(2)
    parts = [random_weight(form, 48, 512) for form in ("Q4_K", "Q4_K", "Q6_K", "GPTQ, 4 bits")]
    shuffled = torch.randperm(512)
    parts[3] = BlockWeight(**(vars(parts[3]) | {"order": shuffled}))
    bias = torch.randn(4 * 48)
    linear = BlockLinear(parts, bias)
    weight = torch.cat([part.dequantized() for part in parts])
    x = torch.randn(ROWS, 512, dtype=torch.bfloat16)
    y = linear(x)
    assert error(y - bias, x, weight) < 2e-6
    assert torch.equal(linear(x[:1].contiguous()), y[:1])


def test_memory_is_hardly_more_than_the_formats() -> None:
    for form, bits in (
        ("Q4_0", 4.5),
        ("Q4_K", 4.5),
        ("Q5_K", 5.5),
        ("Q6_K", 6.5625),
        ("Q3_K", 3.4375),
        ("Q2_K", 2.625),
    ):
        linear = BlockLinear([random_weight(form, 480, 1024)])
        assert linear.nbytes * 8 / (480 * 1024) <= bits * (1.15 if form != "Q2_K" else 1.2), form


# Products with int8 rows are whole numbers and fp32 in order: the same bits on every processor.
INT8_FORMS = ("Q6_K", "IQ4_XS")  # two planes; bytes of all 8 bits, looked up


def int8_digest() -> str:
    torch.manual_seed(8)
    digest = hashlib.sha256()
    for form in INT8_FORMS:
        linear = BlockLinear([random_weight(form, 48, 256)], rounds_rows=True)
        for rows in (1, 6, 20):
            digest.update(linear(torch.randn(rows, 256)).numpy().tobytes())
    return digest.hexdigest()


def test_numbers_below_the_normal_ones_do_not_show_how_many_rows_there_are() -> None:
    torch.manual_seed(4)
    weight = random_weight("Q4_K", 48, 256)
    x = torch.randn(ROWS, 256) * torch.logspace(-42, -30, 256)
    check_rows(BlockLinear([weight]), x.bfloat16())
