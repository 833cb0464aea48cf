"""The small ops around the layers: token ids into rows, rows of logits out, and copies between host and step.

Each is one launch of PyTorch's own kernels once per step, not per layer: nothing to gain from writing them again.
"""

import torch


def embed(table: torch.Tensor, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Rows of ``table`` [vocab, hidden] at ``token_ids`` (int64 [rows]), times ``scale``, in ``dtype``."""
    x = table.index_select(0, token_ids).to(dtype)
    return x if scale == 1.0 else x.mul_(scale)


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of x [any, width] at ``rows`` (int64 [n]), [n, width]."""
    return x.index_select(0, rows)


def take_tokens(token_ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor) -> None:
    """``token_ids[row] = sampled[sources[row]]`` where ``sources[row]`` is not negative; int64 all."""
    taken = sampled.index_select(0, sources.clamp(min=0))
    token_ids.copy_(torch.where(sources >= 0, taken, token_ids))


def count_tokens(counts: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor) -> None:
    """``counts[rows[i], token_ids[i]] += 1`` where ``rows[i]`` is not negative; no two of those are equal."""
    wanted = (rows >= 0).to(counts.dtype)
    counts.index_put_((rows.clamp(min=0).long(), token_ids), wanted, accumulate=True)


def soft_cap(x: torch.Tensor, cap: float) -> None:
    """``x = cap * tanh(x / cap)`` in place, fp32."""
    x.div_(cap).tanh_().mul_(cap)


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """All of ``source`` to ``target``; returns before it is done where one of them is on a GPU."""
    target.copy_(source, non_blocking=True)
