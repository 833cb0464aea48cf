"""The small ops around the layers: token ids into rows, rows of logits out, counts, and copies between host and step.

Once per step, not per layer. Gathers and copies are PyTorch's; what would take several of its kernels is one here.
"""

import torch
import triton
import triton.language as tl

from .activation import tanh
from .block_linear import BlockLinear

_BLOCK = 1024  # rows or columns of a program


def embed(table: torch.Tensor | BlockLinear, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Rows of ``table`` [vocab, hidden] at ``token_ids`` (int64 or int32 [rows]), times ``scale``, in ``dtype``."""
    if isinstance(table, BlockLinear):
        return table.embed(token_ids, scale, dtype)
    x = table.index_select(0, token_ids).to(dtype)
    return x if scale == 1.0 else x.mul_(scale)


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of x [any, width] at ``rows`` (int64 [n]), [n, width]."""
    return x.index_select(0, rows)


@triton.jit(do_not_specialize=["rows"])
def _take_tokens_kernel(
    token_ids_ptr,  # int64 [rows] in, out
    sources_ptr,  # int64 [rows], -1: the token stays
    sampled_ptr,  # int64 [any]
    rows,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(sources_ptr + row, mask=row < rows, other=-1)
    is_taken = source >= 0
    tl.store(token_ids_ptr + row, tl.load(sampled_ptr + source, mask=is_taken, other=0), mask=is_taken)


def take_tokens(token_ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor) -> None:
    """``token_ids[row] = sampled[sources[row]]`` where ``sources[row]`` is not negative; int64 all."""
    rows = token_ids.shape[0]
    _take_tokens_kernel[(triton.cdiv(rows, _BLOCK),)](token_ids, sources, sampled, rows, BLOCK=_BLOCK)


@triton.jit(do_not_specialize=["rows"])
def _count_tokens_kernel(
    counts_ptr,  # int32 [any, WIDTH] in, out
    rows_ptr,  # int32 [rows], row of counts; -1: none
    token_ids_ptr,  # int64 [rows]
    rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    counted = tl.load(rows_ptr + index, mask=index < rows, other=-1).to(tl.int64)
    is_counted = counted >= 0
    token = tl.load(token_ids_ptr + index, mask=is_counted, other=0)
    tl.atomic_add(counts_ptr + counted * WIDTH + token, 1, mask=is_counted, sem="relaxed")


def count_tokens(counts: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor) -> None:
    """``counts[rows[i], token_ids[i]] += 1`` where ``rows[i]`` is not negative."""
    count = rows.shape[0]
    _count_tokens_kernel[(triton.cdiv(count, _BLOCK),)](
        counts, rows, token_ids, count, WIDTH=counts.shape[1], BLOCK=_BLOCK
    )


@triton.jit
def _soft_cap_kernel(
    x_ptr,  # fp32 [rows, WIDTH] in, out
    cap,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x_ptrs = x_ptr + tl.program_id(0).to(tl.int64) * WIDTH + cols
    x = tl.load(x_ptrs, mask=cols < WIDTH, other=0.0)
    tl.store(x_ptrs, cap * tanh(x / cap), mask=cols < WIDTH)


def soft_cap(x: torch.Tensor, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` in place, fp32 [rows, width]."""
    rows, width = x.shape
    _soft_cap_kernel[(rows, triton.cdiv(width, _BLOCK))](x, cap, WIDTH=width, BLOCK=_BLOCK)


def add(x: torch.Tensor, residual: torch.Tensor) -> None:
    """``residual += x``, [rows, width] both."""
    residual.add_(x)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x`` in ``dtype``: itself where it has that."""
    return x.to(dtype)


def scale(x: torch.Tensor, factor: float) -> None:
    """``x *= factor`` in place, fp32 [rows, width]."""
    x.mul_(factor)


def copy_boxes(target: torch.Tensor, source: torch.Tensor) -> None:
    """``copy`` of uint8 [boxes, bytes] whose boxes lie apart."""
    target.copy_(source, non_blocking=True)


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """All of ``source`` to ``target``; returns before it is done where one of them is on a GPU."""
    target.copy_(source, non_blocking=True)
