"""Sampling on the CPU: token = argmax over the allowed set of (processed logit + noise), one row after the other.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit. A row is processed in place
and stays in the core's cache: greedy is two passes over it (maximum, weights), plain sampling three. An allowed set is
a short list of candidates (``candidates.py``).
"""

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange

from .. import TOP_WIDTH, Sampled, SamplingBatch, TopTokens, exact
from .candidates import BLOCK, BUCKETS, allowed, total
from .sample_draw import NOISE_BLOCK, draw_all, draw_listed, first
from .sample_process import add_biases, add_watermark, forbid, penalise, penalise_output, scale
from .sample_top import best_of_list, best_of_row, logprob, rank, rank_listed

_F = np.float32
_LOWEST = _F(-np.inf)
_LOWEST_TEMPERATURE = _F(exact.LOWEST_TEMPERATURE)

kernel = njit(cache=True, error_model="numpy")


class _Rows(NamedTuple):
    """The SamplingBatch as numpy arrays; what is None there is off for every row."""

    greedy: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    repetition_penalty: np.ndarray
    seeds: np.ndarray
    positions: np.ndarray
    seen: np.ndarray
    token_counts: np.ndarray
    min_p: np.ndarray
    typical_p: np.ndarray
    frequency_penalty: np.ndarray
    output_frequency_penalty: np.ndarray
    presence_penalty: np.ndarray
    output_counts: np.ndarray
    bias_start: np.ndarray
    bias_ids: np.ndarray
    bias_values: np.ndarray
    grammar: np.ndarray
    grammar_bits: np.ndarray
    watermark: np.ndarray
    top_n: np.ndarray  # empty: nothing but token and logprob is wanted


class _Scratch(NamedTuple):
    """Working memory, one row per thread."""

    r: np.ndarray  # fp32 [threads, vocab], distances of the candidates below the best logit
    weights: np.ndarray  # int64 [threads, vocab]
    ids: np.ndarray  # int32 [threads, vocab]
    keys: np.ndarray  # fp32 [threads, vocab]
    blocks: np.ndarray  # fp32 [threads, blocks], distance of each block's best
    histogram: np.ndarray  # int64 [threads, BUCKETS], weight by distance
    words: np.ndarray  # uint32 [threads, NOISE_BLOCK]
    raw: np.ndarray  # fp32 [threads, vocab], the row before processing


class _Out(NamedTuple):
    """The fields of Sampled, flat; all but the first two are empty if not wanted."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    ranks: np.ndarray
    raw_logprobs: np.ndarray
    raw_ranks: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    raw_top_ids: np.ndarray
    raw_top_logprobs: np.ndarray


@kernel
def _process(z, row, rows, threshold, delta, words):
    """All up to the temperature. Returns the best logit."""
    if rows.watermark[row] >= 0:
        add_watermark(z, rows.watermark[row], threshold, delta, words)
    biases = slice(rows.bias_start[row], rows.bias_start[row + 1])
    add_biases(z, rows.bias_ids[biases], rows.bias_values[biases])
    seen = rows.seen[row]
    if seen >= 0:
        repetition, frequency = rows.repetition_penalty[row], rows.frequency_penalty[row]
        if repetition != _F(1) or frequency != _F(0):
            penalise(z, rows.token_counts[seen], repetition, frequency, rows.positions[row])
        frequency, presence = rows.output_frequency_penalty[row], rows.presence_penalty[row]
        if frequency != _F(0) or presence != _F(0):
            penalise_output(z, rows.output_counts[seen], frequency, presence)
    if rows.grammar[row] >= 0:
        forbid(z, rows.grammar_bits[rows.grammar[row]])
    return scale(z, _F(1) if rows.greedy[row] else _F(1) / max(rows.temperature[row], _LOWEST_TEMPERATURE))


@kernel
def _sample_row(z, row, rows, threshold, delta, scratch, thread, out):
    details = rows.top_n.size > 0
    raw = scratch.raw[thread]
    raw_best = _LOWEST
    if details:
        raw[:] = z
        raw_best = scale(raw, _F(1))
    r, weights, ids = scratch.r[thread], scratch.weights[thread], scratch.ids[thread]
    blocks, words = scratch.blocks[thread], scratch.words[thread]

    best = _process(z, row, rows, threshold, delta, words)
    n = -1  # of the list of allowed tokens; there is none where all are
    mass = np.int64(0)
    token = 0
    if best == _LOWEST:
        out.token_ids[row] = 0
        out.logprobs[row] = _LOWEST
        if not details:
            return
    else:
        top_k, top_p, min_p, typical_p = rows.top_k[row], rows.top_p[row], rows.min_p[row], rows.typical_p[row]
        if rows.greedy[row]:
            token = first(z, best)
        elif top_k > 0 or top_p < _F(1) or min_p > _F(0) or typical_p < _F(1):
            histogram, keys = scratch.histogram[thread], scratch.keys[thread]
            n = allowed(z, best, top_k, top_p, min_p, typical_p, r, weights, ids, blocks, histogram, keys)
            token = draw_listed(z, rows.seeds[row], rows.positions[row], ids, n, words)
        else:
            token = draw_all(z, rows.seeds[row], rows.positions[row], words)
        mass = weights[:n].sum() if n >= 0 else total(z, best)
        out.token_ids[row] = token
        out.logprobs[row] = logprob(best - z[token], mass)

    if details:
        top_n = rows.top_n[row]
        top_ids, top_logprobs = out.top_ids[row], out.top_logprobs[row]
        if n >= 0:
            out.ranks[row] = rank_listed(r, n, best - z[token])
            best_of_list(r, weights, ids, n, top_n, mass, top_ids, top_logprobs)
        elif best > _LOWEST:
            out.ranks[row] = rank(z, best, best - z[token])
            best_of_row(z, best, top_n, mass, r, weights, ids, blocks, top_ids, top_logprobs)
        if raw_best > _LOWEST:
            mass = total(raw, raw_best)
            out.raw_logprobs[row] = logprob(raw_best - raw[token], mass)
            out.raw_ranks[row] = rank(raw, raw_best, raw_best - raw[token])
            top_ids, top_logprobs = out.raw_top_ids[row], out.raw_top_logprobs[row]
            best_of_row(raw, raw_best, top_n, mass, r, weights, ids, blocks, top_ids, top_logprobs)


@kernel
def _sample_serial(logits, rows, threshold, delta, scratch, out):
    for row in range(logits.shape[0]):
        _sample_row(logits[row], row, rows, threshold, delta, scratch, 0, out)


@njit(cache=True, error_model="numpy", parallel=True)
def _sample_parallel(logits, rows, threshold, delta, scratch, out, threads):
    for thread in prange(threads):
        for row in range(thread, logits.shape[0], threads):
            _sample_row(logits[row], row, rows, threshold, delta, scratch, thread, out)


@lru_cache(maxsize=1)
def _scratch(threads: int, vocab: int) -> _Scratch:
    def empty(width: int, dtype: type) -> np.ndarray:
        return np.empty((threads, width), dtype)

    return _Scratch(
        r=empty(vocab, np.float32),
        weights=empty(max(vocab, BLOCK), np.int64),
        ids=empty(vocab, np.int32),
        keys=empty(vocab, np.float32),
        blocks=empty((vocab + BLOCK - 1) // BLOCK, np.float32),
        histogram=empty(BUCKETS, np.int64),
        words=empty(NOISE_BLOCK, np.uint32),
        raw=empty(vocab, np.float32),
    )


@lru_cache(maxsize=64)
def _off(rows: int) -> dict[str, np.ndarray]:
    """What the optional fields are where they are None."""
    zeros, none = np.zeros(rows, np.float32), np.full(rows, -1, np.int32)
    return {
        "min_p": zeros,
        "typical_p": np.ones(rows, np.float32),
        "frequency_penalty": zeros,
        "output_frequency_penalty": zeros,
        "presence_penalty": zeros,
        "output_counts": np.zeros((0, 0), np.int32),
        "bias_start": np.zeros(rows + 1, np.int32),
        "bias_ids": np.zeros(0, np.int32),
        "bias_values": np.zeros(0, np.float32),
        "grammar": none,
        "grammar_bits": np.zeros((0, 0), np.int32),
        "watermark": none.astype(np.int64),
        "top_n": np.zeros(0, np.int32),
    }


def _rows(batch: SamplingBatch, num_rows: int) -> _Rows:
    off = _off(num_rows)
    given = ((field, getattr(batch, field)) for field in _Rows._fields)
    return _Rows(*(off[field] if tensor is None else tensor.numpy() for field, tensor in given))


def _new_out(rows: int, details: bool) -> _Out:
    detailed = rows if details else 0

    def lowest(*shape: int) -> np.ndarray:
        return np.full(shape, -np.inf, np.float32)

    def no_ids() -> np.ndarray:
        return np.full((detailed, TOP_WIDTH), -1, np.int64)

    return _Out(
        token_ids=np.zeros(rows, np.int64),
        logprobs=lowest(rows),
        ranks=np.ones(detailed, np.int32),
        raw_logprobs=lowest(detailed),
        raw_ranks=np.ones(detailed, np.int32),
        top_ids=no_ids(),
        top_logprobs=lowest(detailed, TOP_WIDTH),
        raw_top_ids=no_ids(),
        raw_top_logprobs=lowest(detailed, TOP_WIDTH),
    )


def _sampled(out: _Out, details: bool) -> Sampled:
    tensor = torch.from_numpy
    sampled = Sampled(tensor(out.token_ids), tensor(out.logprobs))
    if details:
        sampled.ranks = tensor(out.ranks)
        sampled.raw_logprobs, sampled.raw_ranks = tensor(out.raw_logprobs), tensor(out.raw_ranks)
        sampled.top = TopTokens(tensor(out.top_ids), tensor(out.top_logprobs))
        sampled.raw_top = TopTokens(tensor(out.raw_top_ids), tensor(out.raw_top_logprobs))
    return sampled


def sample(logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; overwritten with the processed logits.
        batch: how to sample each row.

    Returns:
        The tokens and their log-probabilities, and the rest of Sampled if ``batch.top_n`` is given.
    """
    num_rows, vocab = logits.shape
    threads = numba.get_num_threads()
    out = _new_out(num_rows, batch.top_n is not None)
    threshold = np.uint32(exact.watermark_threshold(batch.watermark_gamma))
    delta = np.float32(batch.watermark_delta)
    arguments = (logits.numpy(), _rows(batch, num_rows), threshold, delta, _scratch(threads, vocab), out)
    if num_rows == 1 or threads == 1:
        _sample_serial(*arguments)
    else:
        _sample_parallel(*arguments, min(threads, num_rows))
    return _sampled(out, batch.top_n is not None)
