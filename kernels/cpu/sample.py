"""Sampling on the CPU: token = argmax over the allowed set of (processed logit + noise), one row after the other.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit. A row is processed in place
and stays in the core's cache: greedy is two passes over it (maximum, weights), plain sampling three. An allowed set is
a short list of candidates (``candidates.py``).
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import register_jitable

from .. import exact
from ..sampling_batch import PROCESSED, RAW, TOP_WIDTH, Sampled, SamplingBatch
from ..sampling_fields import FIELDS, INDEX
from .candidates import BLOCK, BUCKETS, allowed, total
from .machine import array_at, copy_values
from .op_graph import empty, run, struct_dtype, work_item
from .sample_draw import NOISE_BLOCK, draw_all, draw_listed, first
from .sample_process import add_biases, forbid, penalise, penalise_output, scale
from .sample_top import best_of_list, best_of_row, logprob
from .thread_pool import thread_pool

_F = np.float32
_LOWEST = _F(-np.inf)
_LOWEST_TEMPERATURE = _F(exact.LOWEST_TEMPERATURE)

_GREEDY, _TEMPERATURE, _POSITION = INDEX["greedy"], INDEX["temperature"], INDEX["position"]
_TOP_K, _TOP_P, _MIN_P, _TYPICAL_P = (INDEX[name] for name in ("top_k", "top_p", "min_p", "typical_p"))
_SEED_LOW, _SEED_HIGH = INDEX["seed_low"], INDEX["seed_high"]
_COUNTS_ROW, _REPETITION, _FREQUENCY = INDEX["counts_row"], INDEX["repetition_penalty"], INDEX["frequency_penalty"]
_OUTPUT_FREQUENCY, _PRESENCE = INDEX["output_frequency_penalty"], INDEX["presence_penalty"]
_BIAS_START, _BIAS_END, _GRAMMAR, _TOP_N = (INDEX[name] for name in ("bias_start", "bias_end", "grammar_row", "top_n"))
_NUM_FIELDS = len(FIELDS)

kernel = njit(cache=True, error_model="numpy")


class _Batch(NamedTuple):
    """The SamplingBatch as arrays."""

    ints: np.ndarray  # int32 [fields, rows]
    floats: np.ndarray  # fp32, the same memory
    token_counts: np.ndarray
    output_counts: np.ndarray
    bias_ids: np.ndarray
    bias_values: np.ndarray
    grammar_bits: np.ndarray


class _Scratch(NamedTuple):
    """Working memory of one thread."""

    weights: np.ndarray  # int64 [max(vocab, BLOCK)]
    histogram: np.ndarray  # int64 [BUCKETS], weight by distance
    r: np.ndarray  # fp32 [vocab], distances of the candidates below the best logit
    ids: np.ndarray  # int32 [vocab]
    keys: np.ndarray  # fp32 [vocab]
    raw: np.ndarray  # fp32 [vocab], the row before processing
    blocks: np.ndarray  # fp32 [blocks], distance of each block's best
    words: np.ndarray  # uint32 [NOISE_BLOCK]


class _Out(NamedTuple):
    """Sampled as arrays."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


@kernel
def _process(z, row, batch):
    """All up to the temperature. Returns the best logit."""
    ints, floats = batch.ints, batch.floats
    biases = slice(ints[_BIAS_START, row], ints[_BIAS_END, row])
    add_biases(z, batch.bias_ids[biases], batch.bias_values[biases])
    counted = ints[_COUNTS_ROW, row]
    if counted >= 0:
        repetition, frequency = floats[_REPETITION, row], floats[_FREQUENCY, row]
        if repetition != _F(1) or frequency != _F(0):
            penalise(z, batch.token_counts[counted], repetition, frequency, ints[_POSITION, row])
        frequency, presence = floats[_OUTPUT_FREQUENCY, row], floats[_PRESENCE, row]
        if frequency != _F(0) or presence != _F(0):
            penalise_output(z, batch.output_counts[counted], frequency, presence)
    if ints[_GRAMMAR, row] >= 0:
        forbid(z, batch.grammar_bits[ints[_GRAMMAR, row]])
    return scale(z, _F(1) if ints[_GREEDY, row] else _F(1) / max(floats[_TEMPERATURE, row], _LOWEST_TEMPERATURE))


@kernel
def _sample_row(z, row, batch, scratch, out):
    ints, floats = batch.ints, batch.floats
    top_n = ints[_TOP_N, row]
    details = top_n >= 0
    raw_best = _LOWEST
    if details:
        copy_values(scratch.raw, z)
        raw_best = scale(scratch.raw, _F(1))
        out.logprobs[row, RAW] = _LOWEST
        out.top_ids[row] = -1
        out.top_logprobs[row] = _LOWEST
    r, weights, ids, blocks, words = scratch.r, scratch.weights, scratch.ids, scratch.blocks, scratch.words

    best = _process(z, row, batch)
    n = -1  # of the list of allowed tokens; there is none where all are
    mass = np.int64(0)
    token = 0
    if best == _LOWEST:
        out.token_ids[row] = 0
        out.logprobs[row, PROCESSED] = _LOWEST
        if not details:
            return
    else:
        top_k, top_p, min_p, typical_p = (
            ints[_TOP_K, row], floats[_TOP_P, row], floats[_MIN_P, row], floats[_TYPICAL_P, row]
        )  # fmt: skip
        seed = np.int64(ints[_SEED_HIGH, row]) << 32 | (np.int64(ints[_SEED_LOW, row]) & 0xFFFFFFFF)
        position = np.int64(ints[_POSITION, row])
        if ints[_GREEDY, row]:
            token = first(z, best)
        elif top_k > 0 or top_p < _F(1) or min_p > _F(0) or typical_p < _F(1):
            histogram, keys = scratch.histogram, scratch.keys
            n = allowed(z, best, top_k, top_p, min_p, typical_p, r, weights, ids, blocks, histogram, keys)
            token = draw_listed(z, seed, position, ids, n, words)
        else:
            token = draw_all(z, seed, position, words)
        mass = weights[:n].sum() if n >= 0 else total(z, best)
        out.token_ids[row] = token
        out.logprobs[row, PROCESSED] = logprob(best - z[token], mass)

    if details:
        top_ids, top_logprobs = out.top_ids[row, PROCESSED], out.top_logprobs[row, PROCESSED]
        if n >= 0:
            best_of_list(r, weights, ids, n, top_n, mass, top_ids, top_logprobs)
        elif best > _LOWEST:
            best_of_row(z, best, top_n, mass, r, weights, ids, blocks, top_ids, top_logprobs)
        if raw_best > _LOWEST:
            raw = scratch.raw
            mass = total(raw, raw_best)
            out.logprobs[row, RAW] = logprob(raw_best - raw[token], mass)
            top_ids, top_logprobs = out.top_ids[row, RAW], out.top_logprobs[row, RAW]
            best_of_row(raw, raw_best, top_n, mass, r, weights, ids, blocks, top_ids, top_logprobs)


_ARGUMENTS = struct_dtype(
    fields=int, stride=int, token_counts=int, output_counts=int, bias_ids=int, bias_values=int, grammar_bits=int,
    logits=int, vocab=int, scratch=int, token_ids=int, logprobs=int, top_ids=int, top_logprobs=int,
)  # fmt: skip


@work_item
def _sample():
    fp32, int32, int64 = types.float32, types.int32, types.int64

    def kernel(arguments, item, thread, n, sequences):
        a = array_at(arguments, 1, _ARGUMENTS)[0]
        vocab = a.vocab
        ints = array_at(a.fields, (_NUM_FIELDS, a.stride), int32)
        # Tables of unknown height: what is read of them is what the row points to.
        counted, grammar, biases = ints[_COUNTS_ROW, item], ints[_GRAMMAR, item], ints[_BIAS_END, item]
        batch = _Batch(
            ints, array_at(a.fields, (_NUM_FIELDS, a.stride), fp32),
            array_at(a.token_counts, (counted + 1, vocab), int32),
            array_at(a.output_counts, (counted + 1, vocab), int32),
            array_at(a.bias_ids, biases, int32), array_at(a.bias_values, biases, fp32),
            array_at(a.grammar_bits, (grammar + 1, (vocab + 31) // 32), int32),
        )  # fmt: skip
        row4, num_weights, num_blocks = _padded(vocab) * 4, max(_padded(vocab), BLOCK), (vocab + BLOCK - 1) // BLOCK
        weights = a.scratch + thread * _scratch_bytes(vocab)
        histogram = weights + num_weights * 8
        r = histogram + _padded(BUCKETS) * 8
        words = r + 4 * row4
        scratch = _Scratch(
            array_at(weights, num_weights, int64), array_at(histogram, BUCKETS, int64), array_at(r, vocab, fp32),
            array_at(r + row4, vocab, int32), array_at(r + 2 * row4, vocab, fp32), array_at(r + 3 * row4, vocab, fp32),
            array_at(words + NOISE_BLOCK * 4, num_blocks, fp32), array_at(words, NOISE_BLOCK, types.uint32),
        )  # fmt: skip
        out = _Out(
            array_at(a.token_ids, n, int64), array_at(a.logprobs, (n, 2), fp32),
            array_at(a.top_ids, (n, 2, TOP_WIDTH), int64), array_at(a.top_logprobs, (n, 2, TOP_WIDTH), fp32),
        )  # fmt: skip
        _sample_row(array_at(a.logits + item * vocab * 4, vocab, fp32), item, batch, scratch, out)

    return kernel


@register_jitable(inline="always")  # Python calls it, too
def _padded(count):
    """A multiple of 16: what different arrays of 32 bits hold lies on different cache lines."""
    return (count + 15) // 16 * 16


@register_jitable(inline="always")
def _scratch_bytes(vocab):
    """Of one thread; see _Scratch."""
    wide = max(_padded(vocab), BLOCK) + _padded(BUCKETS)
    return 8 * wide + 4 * (4 * _padded(vocab) + NOISE_BLOCK + _padded((vocab + BLOCK - 1) // BLOCK))


def sample(logits: torch.Tensor, batch: SamplingBatch, out: Sampled | None = None) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; overwritten with the processed logits.
        batch: how to sample each row.
        out: where to write the result.

    Returns:
        ``out``, or a new one.
    """
    rows, vocab = logits.shape
    sampled = out or Sampled(
        empty((rows,), torch.int64), empty((rows, 2)), empty((rows, 2, TOP_WIDTH), torch.int64),
        empty((rows, 2, TOP_WIDTH)),
    )  # fmt: skip
    arguments = {
        **{name: value for name, value in vars(batch).items() if name != "full"}, **vars(sampled),
        "stride": batch.fields.shape[1], "logits": logits, "vocab": vocab,
        "scratch": empty((thread_pool().threads, _scratch_bytes(vocab)), torch.uint8),
    }  # fmt: skip
    run(_sample(), _ARGUMENTS, arguments, rows, per_rows=1)
    return sampled
