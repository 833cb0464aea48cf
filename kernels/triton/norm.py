"""RMSNorm, alone and fused with the residual add: one pass over the row.

    h = x + residual            (add_rms_norm only; written back, because the next layer adds to it)
    y = h / sqrt(mean(h^2) + eps) * (weight + weight_offset)

Zhang & Sennrich 2019 (arXiv 1910.07467). ``weight_offset`` is 1 for Gemma, whose weights are stored around zero.
Fusing the add saves one read and one write of [rows, hidden] per norm.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm_kernel(
    x_ptr,  # [rows, HIDDEN] in
    residual_ptr,  # [rows, HIDDEN] in, out: x + residual; unused without ADD
    weight_ptr,  # [HIDDEN]
    y_ptr,  # [rows, HIDDEN] out
    eps,
    weight_offset,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= HIDDEN: a row stays in registers
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < HIDDEN
    h = tl.load(x_ptr + row * HIDDEN + cols, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        h += tl.load(residual_ptr + row * HIDDEN + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_ptr + row * HIDDEN + cols, h.to(residual_ptr.dtype.element_ty), mask=mask)
    scale = tl.rsqrt(tl.sum(h * h, axis=0) / HIDDEN + eps)
    weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32) + weight_offset
    tl.store(y_ptr + row * HIDDEN + cols, (h * scale * weight).to(y_ptr.dtype.element_ty), mask=mask)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float = 0.0) -> torch.Tensor:
    """Normalise row by row.

    Args:
        x: [rows, hidden], contiguous.
        weight: [hidden].
        eps: added to the mean square.
        weight_offset: added to every weight; 1 for Gemma.

    Returns:
        [rows, hidden] in ``x``'s dtype. Sums are fp32 whatever the dtype.
    """
    y = torch.empty_like(x)
    _launch(x, x, weight, y, eps, weight_offset, add=False)
    return y


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    weight_offset: float = 0.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise ``x + residual`` row by row; ``residual``, of ``x``'s shape and dtype, becomes the sum.

    The other arguments and the result are those of ``rms_norm``. What is normalised is the sum before it is rounded.
    ``out``: where to write the result.
    """
    y = torch.empty_like(x) if out is None else out
    _launch(x, residual, weight, y, eps, weight_offset, add=True)
    return y


def row_block(hidden: int) -> tuple[int, int]:
    """Columns of a block that holds a row, and warps for it.

    512 columns a warp are two 16-byte loads a lane; a wide row is spread over more warps instead of more registers.
    """
    block = triton.next_power_of_2(hidden)
    return block, min(max(block // 512, 1), 16)


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    y: torch.Tensor,
    eps: float,
    weight_offset: float,
    add: bool,
) -> None:
    rows, hidden = x.shape
    block, warps = row_block(hidden)
    _rms_norm_kernel[(rows,)](
        x, residual, weight, y, eps, weight_offset, HIDDEN=hidden, BLOCK=block, ADD=add, num_warps=warps
    )
