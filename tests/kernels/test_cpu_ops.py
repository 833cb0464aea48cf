"""The CPU backend's ops against their formulas in float64, and each row against itself in other company."""

import math
from dataclasses import dataclass

import pytest
import torch

from headwater.kernels import QkNorm, StepBatch, load_backend
from headwater.kernels.quantize import round_weight

cpu = load_backend("cpu")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-3}  # relative, of the whole result's norm
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])


def assert_close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert torch.linalg.norm(got.double() - want) <= tolerance * torch.linalg.norm(want)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("x_dtype", "dtype"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16),
                                                (torch.float32, torch.bfloat16)])  # fmt: skip
@pytest.mark.parametrize(("out", "inner"), [(960, 576), (577, 575), (16, 2), (1, 1), (100, 64)])
def test_linear(x_dtype: torch.dtype, dtype: torch.dtype, out: int, inner: int) -> None:
    weight, bias = torch.randn(out, inner, dtype=dtype), torch.randn(out, dtype=dtype)
    linear, plain = cpu.pack_linear(weight, bias), cpu.pack_linear(weight)
    for rows in (1, 2, 3, 7, 8, 21):
        x = torch.randn(rows, inner, dtype=x_dtype)
        y = linear(x)
        assert y.dtype == torch.float32
        assert_close(y, x.double() @ weight.double().T + bias.double(), 1e-6)
        assert_close(plain(x), x.double() @ weight.double().T, 1e-6)
        for row in range(rows):
            assert torch.equal(linear(x[row : row + 1].clone())[0], y[row]), "a row depends on its batch"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
@pytest.mark.parametrize("x_dtype", list(TOLERANCE), ids=["fp32", "bf16"])
def test_linear_with_a_weight_of_8_bits(dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    weight, bias = torch.randn(577, 575) * torch.logspace(-3, 3, 577)[:, None], torch.randn(577)
    weight[3] = 0.0
    linear = cpu.quantize_linear(weight, bias, dtype)
    rounded, scale = round_weight(weight, dtype)
    assert_close(rounded.float() * scale[:, None], weight.double(), 0.04)
    for rows in (1, 3, 8, 13):
        x = torch.randn(rows, 575, dtype=x_dtype)
        y = linear(x)
        assert_close(y, x.double() @ (rounded.double() * scale.double()[:, None]).T + bias.double(), 1e-6)
        assert torch.equal(linear(x[-1:].clone())[0], y[-1]), "a row depends on its batch"


@DTYPES
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("hidden", [1, 64, 577])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms(dtype: torch.dtype, rows: int, hidden: int, offset: float) -> None:
    x, residual, weight = torch.randn(rows, hidden), torch.randn(rows, hidden), torch.randn(hidden, dtype=dtype)

    def oracle(h: torch.Tensor) -> torch.Tensor:
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5) * (weight.double() + offset)

    assert_close(cpu.rms_norm(x, weight, 1e-5, offset), oracle(x.double()), TOLERANCE[dtype])
    h = x + residual
    alone = cpu.add_rms_norm(x[:1].clone(), residual[:1].clone(), weight, 1e-5, offset)
    y = cpu.add_rms_norm(x, residual, weight, 1e-5, offset)
    assert y.dtype == dtype
    assert_close(y, oracle(h.double()), TOLERANCE[dtype])
    assert torch.equal(residual, h)
    assert torch.equal(alone[0], y[0])


@DTYPES
@pytest.mark.parametrize("rows", [1, 20])
def test_gated_activations(dtype: torch.dtype, rows: int) -> None:
    gate_up = torch.randn(rows, 2 * 97) * 20
    gate_up[0, :4] = torch.tensor([200.0, -200.0, 0.0, -87.5])
    gate, up = gate_up.double().chunk(2, dim=1)
    silu, gelu = cpu.silu_and_mul(gate_up, dtype), cpu.gelu_tanh_and_mul(gate_up, dtype)
    assert silu.dtype == gelu.dtype == dtype
    assert_close(silu, torch.nn.functional.silu(gate) * up, TOLERANCE[dtype])
    assert_close(gelu, torch.nn.functional.gelu(gate, approximate="tanh") * up, TOLERANCE[dtype])


@dataclass(frozen=True)
class Options:
    """What attention may be asked for beside the plain thing."""

    window: int = 0
    softcap: float = 0.0
    qk_norm: bool = False
    k_scale: float = 1.0
    v_scale: float = 1.0


class Case:
    """Sequences of random projected rows over randomly scattered pages, and what attention should make of them."""

    def __init__(
        self, dtype: torch.dtype, group: int, head_dim: int, page_size: int, lengths: list[int], options: Options
    ) -> None:
        self.kv_heads, self.group, self.head_dim, self.page_size = 2, group, head_dim, page_size
        self.options = options
        self.norm = QkNorm(torch.randn(head_dim), torch.randn(head_dim), 1e-6, 1.0) if options.qk_norm else None
        width = (group + 2) * self.kv_heads * head_dim
        self.qkv = [torch.randn(length, width) for length in lengths]
        pages = [math.ceil(length / page_size) for length in lengths]
        order = (torch.randperm(sum(pages)) + 1).split(pages)
        self.page_table = torch.zeros(len(lengths) + 1, max(pages), dtype=torch.int32)
        for sequence, ids in enumerate(order):
            self.page_table[sequence, : len(ids)] = ids
        self.k_pages = torch.zeros(sum(pages) + 1, self.kv_heads, page_size, head_dim).to(dtype)
        self.v_pages = self.k_pages.clone()
        angles = torch.arange(max(lengths))[:, None] * torch.rand(head_dim // 2)
        self.cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)

    def step(self, ranges: list[tuple[int, int]]) -> list[torch.Tensor]:
        """One step over rows [start, end) of each sequence. Returns the attention's rows of each."""
        positions = torch.cat([torch.arange(start, end) for start, end in ranges])
        slots = torch.cat(
            [
                self.page_table[sequence][torch.arange(start, end) // self.page_size].long() * self.page_size
                + torch.arange(start, end) % self.page_size
                for sequence, (start, end) in enumerate(ranges)
            ]
        )
        counts = [end - start for start, end in ranges]
        batch = StepBatch(
            positions=positions.int(),
            slots=slots,
            # One sequence more than there are: static buffers have room left at their end.
            query_start=torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist(), sum(counts)], dtype=torch.int32),
            kv_lengths=torch.tensor([*(end for _, end in ranges), 0], dtype=torch.int32),
            page_table=self.page_table,
        )
        qkv = torch.cat([rows[start:end] for rows, (start, end) in zip(self.qkv, ranges, strict=True)])
        scales = (self.options.k_scale, self.options.v_scale)
        q = cpu.rope_and_write(qkv, self.cos_sin, batch, self.k_pages, self.v_pages, self.norm, *scales)
        q_heads = self.group * self.kv_heads
        plan = cpu.new_plan(
            len(qkv), len(ranges), 100, q_heads, self.kv_heads, self.head_dim, self.page_size, qkv.device,
            self.options.window,
        )  # fmt: skip
        cpu.fill_plan(plan, batch)
        scale = self.head_dim**-0.5
        out = cpu.paged_attention(q, self.k_pages, self.v_pages, batch, plan, scale, self.options.softcap, *scales)
        return list(out.split(counts))

    def oracle(self, sequence: int) -> torch.Tensor:
        options = self.options
        rows = self.qkv[sequence].double()
        length, half = len(rows), self.head_dim // 2
        q, k, v = rows.view(length, -1, self.head_dim).split(
            [self.group * self.kv_heads, self.kv_heads, self.kv_heads], dim=1
        )
        cos, sin = self.cos_sin[:length, None].double().split(half, dim=2)

        def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (weight.double() + 1.0)

        def rope(x: torch.Tensor) -> torch.Tensor:
            a, b = x.split(half, dim=2)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)

        def stored(x: torch.Tensor, scale: float) -> torch.Tensor:
            if self.k_pages.dtype != torch.float8_e4m3fn:
                return x
            return (x / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale

        if self.norm is not None:
            q, k = norm(q, self.norm.q_weight), norm(k, self.norm.k_weight)
        k, v = stored(rope(k), options.k_scale), stored(v, options.v_scale)
        k, v = (x.repeat_interleave(self.group, dim=1).transpose(0, 1) for x in (k, v))
        scores = rope(q).transpose(0, 1) @ k.transpose(1, 2) * self.head_dim**-0.5
        if options.softcap:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        visible = torch.ones(length, length).tril().bool()
        if options.window:
            visible &= torch.ones(length, length).triu(1 - options.window).bool()
        scores = scores.masked_fill(~visible, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)


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
    check(Case(dtype, group, head_dim, page_size, LENGTHS, Options()), TOLERANCE[dtype])


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
    ],
    ids=str,
)
def test_attention_with_options(dtype: torch.dtype, options: Options) -> None:
    # bf16: rounding Q and K moves the logits of large norms, which the softmax then magnifies.
    check(Case(dtype, 3, 64, 16, LENGTHS, options), 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("options", [Options(), Options(k_scale=0.02, v_scale=0.5, window=20, qk_norm=True)], ids=str)
def test_attention_over_fp8_pages(options: Options) -> None:
    # K on the edge between two fp8 values may be rounded otherwise in fp32 than in the oracle's float64.
    check(Case(torch.float8_e4m3fn, 3, 64, 32, LENGTHS, options), 1e-3)


def test_attention_of_no_sequence_at_all() -> None:
    case = Case(torch.float32, 3, 64, 16, [20], Options())
    case.step([(0, 20)])
    before = case.k_pages.clone()
    assert case.step([(20, 20)])[0].shape == (0, 3 * 2 * 64)
    assert torch.equal(case.k_pages, before)
