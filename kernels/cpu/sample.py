"""Sampling on the CPU: token = argmax over the allowed set of (processed logit + noise), one row after the other.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit. A row is processed in place
and stays in the core's cache: greedy is two passes over it (maximum, weights), plain sampling three. Top-k and top-p
work on a short list of candidates (``candidates.py``).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange

from .. import Sampled, SamplingBatch, exact
from .candidates import (
    BLOCK,
    BUCKETS,
    BUCKETS_PER_NAT,
    block_distances,
    cut,
    edge_bucket,
    edge_by_count,
    edge_by_mass,
    gather,
    mass_by_distance,
    mass_target,
    total,
)
from .exact import clean, gumbel, inline, ordered, philox, unordered

_F, _I, _U = np.float32, np.int32, np.uint32
_LOWEST = _F(-np.inf)
_LOWEST_KEY = _I(np.int32(np.array(-np.inf, _F).view(np.int32)) ^ 0x7FFFFFFF)
_LOWEST_TEMPERATURE = _F(exact.LOWEST_TEMPERATURE)
_UNIT = 2.0**-exact.WEIGHT_BITS
_NOISE_BLOCK = 256  # noised logits at a time: they stay in the first-level cache


class _Rows(NamedTuple):
    """The SamplingBatch as numpy arrays."""

    greedy: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    repetition_penalty: np.ndarray
    seeds: np.ndarray
    positions: np.ndarray
    seen: np.ndarray
    token_counts: np.ndarray


class _Scratch(NamedTuple):
    """Working memory, one row per thread."""

    r: np.ndarray  # fp32 [threads, vocab], distance of the candidates
    weights: np.ndarray  # int64 [threads, vocab]
    ids: np.ndarray  # int32 [threads, vocab]
    blocks: np.ndarray  # fp32 [threads, blocks], distance of each block's best
    histogram: np.ndarray  # int64 [threads, BUCKETS], weight by distance
    words: np.ndarray  # uint32 [threads, _NOISE_BLOCK]


kernel = njit(cache=True, error_model="numpy")


@kernel
def _penalise(z, counts, penalty):
    for i in range(z.size):
        x = z[i]
        z[i] = (x * penalty if x < _F(0) else x / penalty) if counts[i] > 0 else x


@kernel
def _scale(z, factor):
    """Temperature, and no NaN from here on. Returns the largest logit."""
    best = _LOWEST_KEY
    for i in range(z.size):
        x = clean(z[i] * factor)
        z[i] = x
        best = max(best, ordered(x))
    return unordered(_I(best))


@kernel
def _first(z, value):
    """The lowest token id with that logit."""
    for i in range(z.size):
        if z[i] == value:
            return i
    return 0


@inline
def _noise_bits(seed, position, counter):
    """The 32-bit words of the tokens 4 * counter .. 4 * counter + 3."""
    key, place = np.uint64(seed), np.uint64(position)
    high = np.uint64(32)
    return philox(_U(key), _U(key >> high), _U(counter), _U(place), _U(place >> high))


@kernel
def _draw_all(z, seed, position, words):
    """The best noised token of a whole row."""
    best, token = _LOWEST_KEY, 0
    noised = words.view(np.float32)
    for start in range(0, z.size, _NOISE_BLOCK):
        for c in range(_NOISE_BLOCK // 4):
            w0, w1, w2, w3 = _noise_bits(seed, position, start // 4 + c)
            words[4 * c] = w0
            words[4 * c + 1] = w1
            words[4 * c + 2] = w2
            words[4 * c + 3] = w3
        count = min(_NOISE_BLOCK, z.size - start)
        block_best = _LOWEST_KEY
        for i in range(count):
            x = z[start + i] + gumbel(words[i])
            noised[i] = x
            block_best = max(block_best, ordered(x))
        if block_best > best:
            best = block_best
            token = start + _first(noised[:count], unordered(_I(block_best)))
    return token


@kernel
def _draw_listed(z, seed, position, ids, n, words):
    """The best noised token of a list, which ascends in id."""
    best, token = _LOWEST_KEY, 0
    noised = words.view(np.float32)
    for start in range(0, n, _NOISE_BLOCK):
        count = min(_NOISE_BLOCK, n - start)
        block_best = _LOWEST_KEY
        for i in range(count):
            token_id = ids[start + i]
            w0, w1, w2, w3 = _noise_bits(seed, position, token_id >> 2)
            lower, upper = (w1 if token_id & 1 else w0), (w3 if token_id & 1 else w2)
            x = z[token_id] + gumbel(upper if token_id & 2 else lower)
            noised[i] = x
            block_best = max(block_best, ordered(x))
        if block_best > best:
            best = block_best
            token = ids[start + _first(noised[:count], unordered(_I(block_best)))]
    return token


@kernel
def _allowed(z, best, top_k, top_p, r, weights, ids, blocks, histogram):
    """List the allowed set. Returns its size."""
    num_blocks = block_distances(z, best, blocks)
    n = 0
    low, high = _F(0), _F(exact.MASSLESS)
    if top_k > 0:
        n = gather(z, best, blocks, num_blocks, edge_by_count(blocks, num_blocks, top_k), r, weights, ids)
        n = cut(r, n, edge_by_count(r, n, top_k), r, weights, ids)
    if top_p < _F(1):
        if top_k > 0:
            target = mass_target(top_p, weights[:n].sum())
        else:
            target = mass_target(top_p, mass_by_distance(z, best, histogram, weights))
            bucket = edge_bucket(histogram, target)
            low, high = _F(bucket / BUCKETS_PER_NAT), _F((bucket + 1) / BUCKETS_PER_NAT)
            n = gather(z, best, blocks, num_blocks, high, r, weights, ids)
        n = cut(r, n, edge_by_mass(r, weights, n, target, low, high), r, weights, ids)
    return n


@kernel
def _sample_row(z, row, rows, scratch, thread, token_ids, logprobs):
    if rows.seen[row] >= 0:
        _penalise(z, rows.token_counts[rows.seen[row]], rows.repetition_penalty[row])
    greedy = rows.greedy[row]
    best = _scale(z, _F(1) if greedy else _F(1) / max(rows.temperature[row], _LOWEST_TEMPERATURE))
    if best == _LOWEST:
        token_ids[row] = 0
        logprobs[row] = _LOWEST
        return
    if greedy:
        token, mass = _first(z, best), total(z, best)
    elif rows.top_k[row] > 0 or rows.top_p[row] < _F(1):
        r, weights, ids = scratch.r[thread], scratch.weights[thread], scratch.ids[thread]
        blocks, histogram = scratch.blocks[thread], scratch.histogram[thread]
        n = _allowed(z, best, rows.top_k[row], rows.top_p[row], r, weights, ids, blocks, histogram)
        token = _draw_listed(z, rows.seeds[row], rows.positions[row], ids, n, scratch.words[thread])
        mass = weights[:n].sum()
    else:
        token = _draw_all(z, rows.seeds[row], rows.positions[row], scratch.words[thread])
        mass = total(z, best)
    token_ids[row] = token
    logprobs[row] = _F(-np.float64(best - z[token]) - math.log(np.float64(mass) * _UNIT))


@kernel
def _sample_serial(logits, rows, scratch, token_ids, logprobs):
    for row in range(logits.shape[0]):
        _sample_row(logits[row], row, rows, scratch, 0, token_ids, logprobs)


@njit(cache=True, error_model="numpy", parallel=True)
def _sample_parallel(logits, rows, scratch, token_ids, logprobs, threads):
    for thread in prange(threads):
        for row in range(thread, logits.shape[0], threads):
            _sample_row(logits[row], row, rows, scratch, thread, token_ids, logprobs)


@lru_cache(maxsize=1)
def _scratch(threads: int, vocab: int) -> _Scratch:
    shape = (threads, vocab)
    return _Scratch(
        r=np.empty(shape, np.float32),
        weights=np.empty(shape, np.int64),
        ids=np.empty(shape, np.int32),
        blocks=np.empty((threads, (vocab + BLOCK - 1) // BLOCK), np.float32),
        histogram=np.empty((threads, BUCKETS), np.int64),
        words=np.empty((threads, _NOISE_BLOCK), np.uint32),
    )


def sample(logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; overwritten with the processed logits.
        batch: how to sample each row.

    Returns:
        The tokens and their log-probabilities. NaN counts as -inf; a row without any finite logit gives token 0 with
        log-probability -inf.
    """
    num_rows, vocab = logits.shape
    rows = _Rows(*(getattr(batch, field).numpy() for field in _Rows._fields))
    token_ids, logprobs = torch.empty(num_rows, dtype=torch.int64), torch.empty(num_rows)
    threads = numba.get_num_threads()
    out = (logits.numpy(), rows, _scratch(threads, vocab), token_ids.numpy(), logprobs.numpy())
    if num_rows == 1 or threads == 1:
        _sample_serial(*out)
    else:
        _sample_parallel(*out, min(threads, num_rows))
    return Sampled(token_ids, logprobs)
