"""The CPU backend's ops against their formulas in float64, and each row against itself in other company."""

from typing import get_args

import pytest
import torch
from numba import njit

from headwater.bench.device.gpu.formulas import (
    activated,
    bent,
    gated_clamped,
    gated_gelu,
    gated_silu,
    layer_normalised,
    normalised,
)
from headwater.kernels import PlainActivation, load_backend
from headwater.kernels.cpu.op_graph import NUMBA_TYPES
from headwater.kernels.cpu.widen_fp8 import widen_fp8_values
from headwater.kernels.quantize import round_weight

from .attention_case import Case, Options, assert_close

cpu = load_backend("cpu")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-3}  # relative, of the whole result's norm
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("x_dtype", "dtype"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16),
                                                (torch.float32, torch.bfloat16)])  # fmt: skip
@pytest.mark.parametrize(("out", "inner"), [(960, 576), (577, 574), (577, 96), (16, 2), (1, 2), (100, 64)])
def test_linear(x_dtype: torch.dtype, dtype: torch.dtype, out: int, inner: int) -> None:
    weight, bias = torch.randn(out, inner, dtype=dtype), torch.randn(out, dtype=dtype)
    linear, plain = cpu.pack_linear(weight, bias), cpu.pack_linear(weight)
    for rows in (1, 2, 3, 7, 8, 21, 70):
        x = torch.randn(rows, inner, dtype=x_dtype)
        y = linear(x)
        assert y.dtype == torch.float32
        assert_close(y, x.double() @ weight.double().T + bias.double(), 1e-6)
        assert_close(plain(x), x.double() @ weight.double().T, 1e-6)
        for row in range(rows):
            assert torch.equal(linear(x[row : row + 1].clone())[0], y[row]), "a row depends on its batch"


def test_a_bf16_linear_of_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even number of inputs, not 575"):
        cpu.pack_linear(torch.randn(16, 575, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
@pytest.mark.parametrize("x_dtype", list(TOLERANCE), ids=["fp32", "bf16"])
@pytest.mark.parametrize("inner", [574, 544])  # the second is whole chunks of 32
def test_linear_with_a_weight_of_8_bits(dtype: torch.dtype, x_dtype: torch.dtype, inner: int) -> None:
    weight, bias = torch.randn(577, inner) * torch.logspace(-3, 3, 577)[:, None], torch.randn(577)
    weight[3] = 0.0
    linear = cpu.quantize_linear(weight, bias, dtype)
    rounded, scale = round_weight(weight, dtype)
    assert_close(rounded.float() * scale[:, None], weight.double(), 0.04)
    for rows in (1, 2, 3, 8, 13, 70):
        x = torch.randn(rows, inner, dtype=x_dtype)
        y = linear(x)
        assert_close(y, x.double() @ (rounded.double() * scale.double()[:, None]).T + bias.double(), 1e-6)
        assert torch.equal(linear(x[-1:].clone())[0], y[-1]), "a row depends on its batch"


@DTYPES
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("hidden", [1, 64, 577])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms(dtype: torch.dtype, rows: int, hidden: int, offset: float) -> None:
    x, residual, weight = torch.randn(rows, hidden), torch.randn(rows, hidden), torch.randn(hidden, dtype=dtype)
    assert_close(cpu.rms_norm(x, weight, 1e-5, offset), normalised(x, weight, 1e-5, offset), TOLERANCE[dtype])
    h = x + residual
    alone = cpu.add_rms_norm(x[:1].clone(), residual[:1].clone(), weight, 1e-5, offset)
    y = cpu.add_rms_norm(x, residual, weight, 1e-5, offset)
    assert y.dtype == dtype
    assert_close(y, normalised(h, weight, 1e-5, offset), TOLERANCE[dtype])
    assert torch.equal(residual, h)
    assert torch.equal(alone[0], y[0])
    again = torch.zeros_like(y)
    assert cpu.add_rms_norm(x, h - x, weight, 1e-5, offset, again) is again
    assert_close(again, y.double(), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("rows", [1, 20])
def test_gated_activations(dtype: torch.dtype, rows: int) -> None:
    gate_up = torch.randn(rows, 2 * 97) * 20
    gate_up[0, :4] = torch.tensor([200.0, -200.0, 0.0, -87.5])
    silu, gelu = cpu.silu_and_mul(gate_up, dtype), cpu.gelu_tanh_and_mul(gate_up, dtype)
    clamped = cpu.clamped_silu_and_mul(gate_up, 1.702, 7.0, dtype)
    assert silu.dtype == gelu.dtype == clamped.dtype == dtype
    assert_close(silu, gated_silu(gate_up), TOLERANCE[dtype])
    assert_close(gelu, gated_gelu(gate_up), TOLERANCE[dtype])
    assert_close(clamped, gated_clamped(gate_up, 1.702, 7.0), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("hidden", [1, 64, 577])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norms(dtype: torch.dtype, hidden: int, has_bias: bool) -> None:
    x, residual, weight = torch.randn(9, hidden) + 3.0, torch.randn(9, hidden), torch.randn(hidden, dtype=dtype)
    bias = torch.randn(hidden, dtype=dtype) if has_bias else None
    tolerance = TOLERANCE[dtype]
    assert_close(cpu.layer_norm(x, weight, bias, 1e-5), layer_normalised(x, weight, bias, 1e-5), tolerance)
    h, alone = x + residual, cpu.add_layer_norm(x[:1].clone(), residual[:1].clone(), weight, bias, 1e-5)
    y = cpu.add_layer_norm(x, residual, weight, bias, 1e-5)
    assert y.dtype == dtype
    assert_close(y, layer_normalised(h, weight, bias, 1e-5), tolerance)
    assert torch.equal(residual, h)
    assert torch.equal(alone[0], y[0])
    again = torch.zeros_like(y)
    assert cpu.add_layer_norm(x, h - x, weight, bias, 1e-5, again) is again
    assert_close(again, y.double(), tolerance)


@DTYPES
@pytest.mark.parametrize("kind", get_args(PlainActivation))
def test_activations_without_a_gate(dtype: torch.dtype, kind: PlainActivation) -> None:
    x = torch.randn(20, 97) * 3
    x[0, :6] = torch.tensor([2e4, -2e4, 0.0, -0.0, -5.5, 13.0])
    y = cpu.act(x, kind, dtype)
    assert y.dtype == dtype
    assert_close(y, activated(x, kind), TOLERANCE[dtype])
    # Small results, of rows far below zero, too.
    torch.testing.assert_close(y[1:].double(), activated(x[1:], kind), rtol=TOLERANCE[dtype], atol=1e-6)
    assert torch.equal(cpu.act(x[3:4].clone(), kind, dtype)[0], y[3])


@DTYPES
def test_an_activation_with_factors_that_are_learned(dtype: torch.dtype) -> None:
    factors = (0.7, 1.2, 0.5, -1e-6)
    x = torch.randn(20, 97) * 3
    x[0, :9] = torch.tensor([2e4, -2e4, 0.0, -0.0, -1e-3, -0.4999, -0.5001, -1e-7, 13.0])
    y = cpu.xielu(x, *factors, dtype)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), bent(x, *factors), rtol=TOLERANCE[dtype], atol=1e-6)
    assert torch.equal(cpu.xielu(x[3:4].clone(), *factors, dtype)[0], y[3])


def test_sums_factors_and_rows_in_another_dtype() -> None:
    x, residual = torch.randn(9, 97), torch.randn(9, 97)
    want = x + residual
    cpu.add(x, residual)
    assert torch.equal(residual, want)
    assert cpu.cast(x, torch.float32) is x
    assert torch.equal(cpu.cast(x, torch.bfloat16), x.bfloat16())
    want = x * 0.3
    cpu.scale(x, 0.3)
    assert torch.equal(x, want)


def test_an_embedding_of_positions() -> None:
    table, positions = torch.randn(7, 33), torch.tensor([6, 0, 3, 3], dtype=torch.int32)
    assert torch.equal(cpu.embed(table, positions, 1.0, torch.float32), table[positions.long()])


LENGTHS = [1, 16, 17, 40, 64, 100]  # page multiples, one more, a last page partly full


def check(case: Case, tolerance: float) -> None:
    """The oracle's rows in one step; in two, cut elsewhere and with decodes beside chunks, the same bit by bit."""
    whole = case.step([(0, length) for length in LENGTHS])
    for sequence, rows in enumerate(whole):
        assert_close(rows, case.oracle(sequence), tolerance)
    cuts = [[0, 0, 1], [0, 15, 16], [0, 16, 17], [0, 5, 40], [0, 63, 64], [0, 97, 100]]
    parts = [case.step([(cut[i], cut[i + 1]) for cut in cuts]) for i in range(2)]
    for sequence, rows in enumerate(whole):
        assert torch.equal(torch.cat([part[sequence] for part in parts]), rows)


@DTYPES
@pytest.mark.parametrize(
    ("group", "head_dim", "page_size"),
    [(1, 64, 16), (3, 64, 32), (5, 96, 16), (6, 64, 16), (7, 80, 64), (8, 128, 16), (2, 256, 32), (16, 64, 16)],
)
def test_attention_over_pages(dtype: torch.dtype, group: int, head_dim: int, page_size: int) -> None:
    check(Case(cpu, dtype, group, head_dim, page_size, LENGTHS, Options()), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize(
    "options",
    [
        Options(window=1),
        Options(window=7),
        Options(window=16),
        Options(window=33, softcap=20.0),
        Options(softcap=0.5),
        Options(qk_norm=True),
        Options(window=50, softcap=30.0, qk_norm=True),
        Options(norm_of_all_heads=True),
        Options(own_norms=True),
        Options(norm_after=True),
    ],
    ids=str,
)
def test_attention_with_options(dtype: torch.dtype, options: Options) -> None:
    # bf16: rounding Q and K moves the logits of large norms, which the softmax then magnifies.
    check(Case(cpu, dtype, 3, 64, 16, LENGTHS, options), 3 * TOLERANCE[dtype])


@njit
def _widen(source, target, count, dtype):
    widen_fp8_values(source, target, count, dtype)


@DTYPES
def test_every_value_of_fp8_is_widened_exactly(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    widened = torch.empty(256, dtype=dtype)
    _widen(codes.data_ptr(), widened.data_ptr(), 256, NUMBA_TYPES[dtype])
    numbers = ~codes.float().isnan()
    assert torch.equal(widened[numbers].float(), codes.float()[numbers])
    assert numbers.sum() == 254


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 8e-3)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("options", [Options(), Options(k_scale=0.02, v_scale=0.5, window=20, qk_norm=True)], ids=str)
def test_attention_over_fp8_pages(dtype: torch.dtype, tolerance: float, options: Options) -> None:
    # K on the edge between two fp8 values may be rounded otherwise in fp32 than in the oracle's float64.
    check(Case(cpu, torch.float8_e4m3fn, 3, 64, 32, LENGTHS, options, dtype), tolerance)


def test_attention_of_no_sequence_at_all() -> None:
    case = Case(cpu, torch.float32, 3, 64, 16, [20], Options())
    case.step([(0, 20)])
    before = case.k_pages.clone()
    assert case.step([(20, 20)])[0].shape == (0, 3 * 2 * 64)
    assert torch.equal(case.k_pages, before)
