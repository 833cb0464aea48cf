"""Activations of an MLP: act(gate) * up, with gate and up side by side in one row; or act(x), without a gate.

silu(x) = x / (1 + exp(-x))                                             (SwiGLU, Shazeer 2020, arXiv 2002.05202)
         min(gate, l) / (1 + exp(-alpha * min(gate, l))) * (1 + clamp(up, -l, l))         (clamped: GPT-OSS)
gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))       (the tanh form: Gemma)
         x / 2 * (1 + erf(x / sqrt(2)))                                 (as it was defined: GPT-NeoX)
relu2(x) = max(x, 0)^2                                                  (Primer, arXiv 2109.08668)
xielu(x) = p * x^2 + b * x; n * (e^min(x, eps) - 1 - x) + b * x of x <= 0      (arXiv 2411.13010; p and n are learned)
"""

import torch
import triton
import triton.language as tl

from .. import PlainActivation

_BLOCK = 1024  # columns a program: two 16-byte loads a lane and operand with 4 warps of 16-bit values


@triton.jit
def tanh(x):
    """Hyperbolic tangent from one exponential that cannot overflow; fp32 in and out."""
    e = tl.exp2(-2.8853900817779268 * tl.abs(x))  # exp(-2 |x|), the constant is 2 * log2(e)
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def act_and_mul(gate, up, GELU: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr):
    """act(gate) * up, fp32; the arguments are the kernel's."""
    if GELU:
        act = 0.5 * gate * (1.0 + tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)))
    elif LIMIT > 0.0:
        gate = tl.minimum(gate, LIMIT)
        act = gate / (1.0 + tl.exp(-ALPHA * gate))
        up = tl.minimum(tl.maximum(up, -LIMIT), LIMIT) + 1.0
    else:
        act = gate / (1.0 + tl.exp(-gate))
    return act * up


@triton.jit
def _act_and_mul_kernel(
    gate_up_ptr,  # [rows, 2 * WIDTH] in, gate first
    out_ptr,  # [rows, WIDTH] out
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GELU: tl.constexpr,
    ALPHA: tl.constexpr,  # read with LIMIT
    LIMIT: tl.constexpr,  # 0: none
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < WIDTH
    gate = tl.load(gate_up_ptr + row * 2 * WIDTH + cols, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * WIDTH + WIDTH + cols, mask=mask, other=0.0).to(tl.float32)
    out = act_and_mul(gate, up, GELU, ALPHA, LIMIT).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * WIDTH + cols, out, mask=mask)


def silu_and_mul(gate_up: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """silu(gate) * up for ``gate_up`` [rows, 2 * width], contiguous, gate first. Returns [rows, width].

    ``dtype`` of the result: that of ``gate_up`` unless given.
    """
    return _launch(gate_up, dtype or gate_up.dtype, gelu=False)


def gelu_tanh_and_mul(gate_up: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """gelu(gate) * up for ``gate_up`` [rows, 2 * width], contiguous, gate first. Returns [rows, width].

    ``dtype`` of the result: that of ``gate_up`` unless given.
    """
    return _launch(gate_up, dtype or gate_up.dtype, gelu=True)


def clamped_silu_and_mul(
    gate_up: torch.Tensor, alpha: float, limit: float, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """gate * sigmoid(alpha * gate) * (up + 1), both clamped to ``limit`` > 0; else as ``silu_and_mul``."""
    return _launch(gate_up, dtype or gate_up.dtype, gelu=False, alpha=alpha, limit=limit)


def _launch(
    gate_up: torch.Tensor, dtype: torch.dtype, gelu: bool, alpha: float = 0.0, limit: float = 0.0
) -> torch.Tensor:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width, dtype=dtype)
    _act_and_mul_kernel[(rows, triton.cdiv(width, _BLOCK))](
        gate_up, out, WIDTH=width, BLOCK=_BLOCK, GELU=gelu, ALPHA=alpha, LIMIT=limit
    )
    return out


@triton.jit
def _act_kernel(
    x_ptr,  # [rows, WIDTH] in
    out_ptr,  # [rows, WIDTH] out
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = tl.program_id(0).to(tl.int64) * WIDTH + cols
    x = tl.load(x_ptr + offsets, mask=cols < WIDTH, other=0.0).to(tl.float32)
    if KIND == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
    elif KIND == "gelu_tanh":
        y = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    else:
        y = tl.maximum(x, 0.0)
        if KIND == "relu2":
            y *= y
    tl.store(out_ptr + offsets, y.to(out_ptr.dtype.element_ty), mask=cols < WIDTH)


def act(x: torch.Tensor, kind: PlainActivation, dtype: torch.dtype | None = None) -> torch.Tensor:
    """act(x) for ``x`` [rows, width], contiguous. Returns the same in ``dtype``, that of ``x`` unless given."""
    rows, width = x.shape
    out = torch.empty_like(x, dtype=dtype)
    _act_kernel[(rows, triton.cdiv(width, _BLOCK))](x, out, WIDTH=width, BLOCK=_BLOCK, KIND=kind)
    return out


@triton.jit
def _xielu_kernel(
    x_ptr,  # [rows, WIDTH] in
    out_ptr,  # [rows, WIDTH] out
    positive,
    negative,
    beta,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = tl.program_id(0).to(tl.int64) * WIDTH + cols
    x = tl.load(x_ptr + offsets, mask=cols < WIDTH, other=0.0).to(tl.float32)
    below = tl.minimum(x, eps)
    # e^x - 1 - x: near zero by its series, for the difference would leave nothing of it.
    series = 1.0 / 720 + below * (1.0 / 5040 + below * (1.0 / 40320))
    series = 0.5 + below * (1.0 / 6 + below * (1.0 / 24 + below * (1.0 / 120 + below * series)))
    beyond = tl.where(below > -0.5, below * below * series, tl.exp(below) - 1.0 - below)
    bent = tl.where(x > 0.0, positive * x * x, negative * (beyond + (below - x)))
    tl.store(out_ptr + offsets, (bent + beta * x).to(out_ptr.dtype.element_ty), mask=cols < WIDTH)


def xielu(
    x: torch.Tensor, positive: float, negative: float, beta: float, eps: float, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """positive * x^2 + beta * x, or negative * (e^min(x, eps) - 1 - x) + beta * x of x <= 0; else as ``act``."""
    rows, width = x.shape
    out = torch.empty_like(x, dtype=dtype)
    _xielu_kernel[(rows, triton.cdiv(width, _BLOCK))](x, out, positive, negative, beta, eps, WIDTH=width, BLOCK=_BLOCK)
    return out
