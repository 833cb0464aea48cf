"""LayerNorm, alone and fused with the residual add: one pass over the row.

    h = x + residual            (add_layer_norm only; written back, because the next layer adds to it)
    y = (h - mean(h)) / sqrt(mean((h - mean(h))^2) + eps) * weight + bias

Ba et al. 2016 (arXiv 1607.06450). Cohere's has no bias.
"""

import torch
import triton
import triton.language as tl

from .norm import row_block


@triton.jit
def _layer_norm_kernel(
    x_ptr,  # [rows, HIDDEN] in
    residual_ptr,  # [rows, HIDDEN] in, out: x + residual; unused without ADD
    weight_ptr,  # [HIDDEN]
    bias_ptr,  # [HIDDEN], read with BIAS
    y_ptr,  # [rows, HIDDEN] out
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= HIDDEN: a row stays in registers
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < HIDDEN
    h = tl.load(x_ptr + row * HIDDEN + cols, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        h += tl.load(residual_ptr + row * HIDDEN + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_ptr + row * HIDDEN + cols, h.to(residual_ptr.dtype.element_ty), mask=mask)
    centred = tl.where(mask, h - tl.sum(h, axis=0) / HIDDEN, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / HIDDEN + eps)
    y = centred * scale * tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * HIDDEN + cols, y.to(y_ptr.dtype.element_ty), mask=mask)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Normalise row by row.

    Args:
        x: [rows, hidden], contiguous.
        weight: [hidden].
        bias: [hidden], or None.
        eps: added to the variance.

    Returns:
        [rows, hidden] in ``x``'s dtype. Sums are fp32 whatever the dtype.
    """
    y = torch.empty_like(x)
    _launch(x, x, weight, bias, y, eps, add=False)
    return y


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise ``x + residual`` row by row; ``residual``, of ``x``'s shape and dtype, becomes the sum.

    The other arguments and the result are those of ``layer_norm``. What is normalised is the sum before it is rounded.
    ``out``: where to write the result.
    """
    y = torch.empty_like(x) if out is None else out
    _launch(x, residual, weight, bias, y, eps, add=True)
    return y


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    eps: float,
    add: bool,
) -> None:
    rows, hidden = x.shape
    block, warps = row_block(hidden)
    _layer_norm_kernel[(rows,)](
        x, residual, weight, weight if bias is None else bias, y, eps,
        HIDDEN=hidden, BLOCK=block, ADD=add, BIAS=bias is not None, num_warps=warps,
    )  # fmt: skip
