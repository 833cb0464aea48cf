"""Log-probability of given tokens: how likely the model found a prompt.

    logprob = z[token] - max z - log(sum over i of exp(z[i] - max z))

One program per row reads it once, with the running maximum and sum of Milakov & Gimelshein 2018 (arXiv 1805.02867),
in an order that depends on the vocabulary alone.
"""

import torch
import triton
import triton.language as tl

from .exact import clean

CHUNK = 4096  # tokens per iteration: with 8 warps four 16-byte loads a thread in flight
WARPS = 8


@triton.jit
def _token_logprobs_kernel(
    logits_ptr,  # fp32 [rows, vocab]
    token_ids_ptr,  # int64 [rows]
    logprobs_ptr,  # fp32 [rows] out
    vocab,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * vocab
    best = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, vocab, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        z = clean(tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf")))
        higher = tl.maximum(best, tl.max(z, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(best - base) + tl.sum(tl.exp(z - base), axis=0)
        best = higher
    z = clean(tl.load(row_ptr + tl.load(token_ids_ptr + row)))
    base = tl.where(best == float("-inf"), 0.0, best)
    tl.store(logprobs_ptr + row, z - base - tl.log(tl.maximum(total, 1.0)))  # 1 is what the best token adds


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; they stay as they are.
        token_ids: int64 [rows], in [0, vocab).

    Returns:
        fp32 [rows], natural logarithms; -inf where the token, or the whole row, has no finite logit.
    """
    rows, vocab = logits.shape
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _token_logprobs_kernel[(rows,)](
        logits, token_ids, logprobs, vocab, CHUNK=CHUNK, num_warps=WARPS, enable_fp_fusion=False
    )
    return logprobs
