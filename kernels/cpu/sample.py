"""Sampling on the CPU: token = argmax over the allowed set of (processed logit + noise), one row after the other.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit. A row is processed in place
and stays in the core's cache: greedy is two passes over it (maximum, weights), plain sampling three. An allowed set is
a short list of candidates (``candidates.py``).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types

from .. import TOP_WIDTH, Sampled, SamplingBatch, TopTokens, exact
from .candidates import BLOCK, BUCKETS, allowed, total
from .machine import array_at
from .op_graph import empty, record, run, work_item
from .sample_draw import NOISE_BLOCK, draw_all, draw_listed, first
from .sample_process import add_biases, add_watermark, forbid, penalise, penalise_output, scale
from .sample_top import best_of_list, best_of_row, logprob, rank, rank_listed
from .thread_pool import thread_pool

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
    top_n: np.ndarray  # -1: nothing but token and logprob is wanted


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
    """The fields of Sampled, flat; all but the first two are written only where they are wanted."""

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
    details = rows.top_n[row] >= 0
    raw = scratch.raw[thread]
    raw_best = _LOWEST
    if details:
        raw[:] = z
        raw_best = scale(raw, _F(1))
        out.ranks[row] = out.raw_ranks[row] = 1
        out.raw_logprobs[row] = _LOWEST
        out.top_ids[row] = out.raw_top_ids[row] = -1
        out.top_logprobs[row] = out.raw_top_logprobs[row] = _LOWEST
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


_ARGUMENTS = record(
    **dict.fromkeys((*_Rows._fields, *_Scratch._fields, *_Out._fields, "logits"), int),
    vocab=int, blocks_in_row=int, delta=float, threshold=int,
)  # fmt: skip


@work_item
def _sample():
    def kernel(arguments, item, thread, n, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        vocab = a.vocab
        fp32, int32, int64 = types.float32, types.int32, types.int64
        bias_start = array_at(a.bias_start, n + 1, int32)
        # Tables of unknown height: what is read of them is what the batch points to.
        seen, grammar = array_at(a.seen, n, int32), array_at(a.grammar, n, int32)
        rows = _Rows(
            array_at(a.greedy, n, types.boolean), array_at(a.temperature, n, fp32), array_at(a.top_k, n, int32),
            array_at(a.top_p, n, fp32), array_at(a.repetition_penalty, n, fp32), array_at(a.seeds, n, int64),
            array_at(a.positions, n, int64), seen, array_at(a.token_counts, (seen[item] + 1, vocab), int32),
            array_at(a.min_p, n, fp32), array_at(a.typical_p, n, fp32), array_at(a.frequency_penalty, n, fp32),
            array_at(a.output_frequency_penalty, n, fp32), array_at(a.presence_penalty, n, fp32),
            array_at(a.output_counts, (seen[item] + 1, vocab), int32), bias_start,
            array_at(a.bias_ids, bias_start[item + 1], int32), array_at(a.bias_values, bias_start[item + 1], fp32),
            grammar, array_at(a.grammar_bits, (grammar[item] + 1, (vocab + 31) // 32), int32),
            array_at(a.watermark, n, int64), array_at(a.top_n, n, int32),
        )  # fmt: skip
        threads = thread + 1  # rows of the scratch before this thread's, and its own
        scratch = _Scratch(
            array_at(a.r, (threads, vocab), fp32), array_at(a.weights, (threads, max(vocab, BLOCK)), int64),
            array_at(a.ids, (threads, vocab), int32), array_at(a.keys, (threads, vocab), fp32),
            array_at(a.blocks, (threads, a.blocks_in_row), fp32), array_at(a.histogram, (threads, BUCKETS), int64),
            array_at(a.words, (threads, NOISE_BLOCK), types.uint32), array_at(a.raw, (threads, vocab), fp32),
        )  # fmt: skip
        out = _Out(
            array_at(a.token_ids, n, int64), array_at(a.logprobs, n, fp32), array_at(a.ranks, n, int32),
            array_at(a.raw_logprobs, n, fp32), array_at(a.raw_ranks, n, int32),
            array_at(a.top_ids, (n, TOP_WIDTH), int64), array_at(a.top_logprobs, (n, TOP_WIDTH), fp32),
            array_at(a.raw_top_ids, (n, TOP_WIDTH), int64), array_at(a.raw_top_logprobs, (n, TOP_WIDTH), fp32),
        )  # fmt: skip
        logits = array_at(a.logits + item * vocab * 4, vocab, fp32)
        _sample_row(logits, item, rows, types.uint32(a.threshold), a.delta, scratch, thread, out)

    return kernel


def _scratch(vocab: int) -> dict[str, torch.Tensor]:
    def rows(width: int, dtype: torch.dtype) -> torch.Tensor:
        return empty((thread_pool().threads, width), dtype)

    return {
        "r": rows(vocab, torch.float32),
        "weights": rows(max(vocab, BLOCK), torch.int64),
        "ids": rows(vocab, torch.int32),
        "keys": rows(vocab, torch.float32),
        "blocks": rows(-(-vocab // BLOCK), torch.float32),
        "histogram": rows(BUCKETS, torch.int64),
        "words": rows(NOISE_BLOCK, torch.int32),
        "raw": rows(vocab, torch.float32),
    }


@lru_cache(maxsize=64)
def _off(rows: int) -> dict[str, torch.Tensor]:
    """What the optional fields are where they are None."""
    zeros, none = torch.zeros(rows), torch.full((rows,), -1, dtype=torch.int32)
    return {
        "min_p": zeros,
        "typical_p": torch.ones(rows),
        "frequency_penalty": zeros,
        "output_frequency_penalty": zeros,
        "presence_penalty": zeros,
        "output_counts": torch.zeros(1, dtype=torch.int32),
        "bias_start": torch.zeros(rows + 1, dtype=torch.int32),
        "bias_ids": torch.zeros(1, dtype=torch.int32),
        "bias_values": torch.zeros(1),
        "grammar": none,
        "grammar_bits": torch.zeros(1, dtype=torch.int32),
        "watermark": none.long(),
        "top_n": none,
    }


def new_sampled(rows: int, details: bool) -> Sampled:
    """Room for what ``sample`` returns."""
    sampled = Sampled(empty((rows,), torch.int64), empty((rows,)))
    if details:

        def top() -> TopTokens:
            return TopTokens(empty((rows, TOP_WIDTH), torch.int64), empty((rows, TOP_WIDTH)))

        sampled.ranks, sampled.raw_ranks = empty((rows,), torch.int32), empty((rows,), torch.int32)
        sampled.raw_logprobs = empty((rows,))
        sampled.top, sampled.raw_top = top(), top()
    return sampled


def sample(logits: torch.Tensor, batch: SamplingBatch, out: Sampled | None = None) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; overwritten with the processed logits.
        batch: how to sample each row.
        out: where to write the result; with all fields if ``batch.top_n`` is given.

    Returns:
        The tokens and their log-probabilities, and the rest of Sampled if ``batch.top_n`` is given.
    """
    num_rows, vocab = logits.shape
    given = {field: getattr(batch, field) for field in _Rows._fields}
    fields = {field: _off(num_rows)[field] if tensor is None else tensor for field, tensor in given.items()}
    sampled = out or new_sampled(num_rows, batch.top_n is not None)
    top, raw_top = sampled.top, sampled.raw_top
    arguments = {
        **fields, **_scratch(vocab), "logits": logits, "vocab": vocab, "blocks_in_row": -(-vocab // BLOCK),
        "threshold": exact.watermark_threshold(batch.watermark_gamma), "delta": batch.watermark_delta,
        "token_ids": sampled.token_ids, "logprobs": sampled.logprobs, "ranks": sampled.ranks,
        "raw_ranks": sampled.raw_ranks, "raw_logprobs": sampled.raw_logprobs,
        "top_ids": top and top.ids, "top_logprobs": top and top.logprobs,
        "raw_top_ids": raw_top and raw_top.ids, "raw_top_logprobs": raw_top and raw_top.logprobs,
    }  # fmt: skip
    run(_sample(), _ARGUMENTS, arguments, num_rows, per_rows=1)
    return sampled
