"""Log-probability of given tokens: how likely the model found a prompt.

    logprob = log(exp(z[token] - max z) / sum over i of exp(z[i] - max z))

With the integer weights of ``kernels/exact.py``, so that the value is that of ``Sampled.raw_logprobs`` bit for bit.
"""

import numpy as np
import torch
from numba import types

from .candidates import kernel
from .exact import clean, ordered, unordered, weight
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item
from .sample_process import LOWEST_KEY
from .sample_top import logprob

_F, _I = np.float32, np.int32
_ARGUMENTS = struct_dtype(logits=int, token_ids=int, out=int, vocab=int)
_LOWEST = _F(-np.inf)


@kernel
def token_logprob(z, token):
    """Natural log of the share of ``token`` in the softmax of the row ``z``, fp32 [vocab], which stays as it is."""
    key = LOWEST_KEY
    for i in range(z.size):
        key = max(key, ordered(clean(z[i])))
    best = unordered(_I(key))
    if best == _LOWEST:
        return _LOWEST
    mass = np.int64(0)
    for i in range(z.size):
        mass += weight(best - clean(z[i]))
    return logprob(best - clean(z[token]), mass)


@work_item
def _token_logprobs():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        token_ids, out = array_at(a.token_ids, rows, types.int64), array_at(a.out, rows, types.float32)
        out[item] = token_logprob(array_at(a.logits + item * a.vocab * 4, a.vocab, types.float32), token_ids[item])

    return kernel


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; they stay as they are.
        token_ids: int64 [rows], in [0, vocab).

    Returns:
        fp32 [rows], natural logarithms; -inf where the token, or the whole row, has no finite logit.
    """
    rows, vocab = logits.shape
    out = empty((rows,))
    arguments = {"logits": logits, "token_ids": token_ids, "out": out, "vocab": vocab}
    run(_token_logprobs(), _ARGUMENTS, arguments, rows, per_rows=1)
    return out
