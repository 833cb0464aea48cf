"""Fields of ``kernels/sampling_fields.py`` as the sampler's kernels read them, and its sizes."""

import triton
import triton.language as tl

from ..sampling_fields import INDEX

GREEDY = tl.constexpr(INDEX["greedy"])
TEMPERATURE = tl.constexpr(INDEX["temperature"])
TOP_K = tl.constexpr(INDEX["top_k"])
TOP_P = tl.constexpr(INDEX["top_p"])
REPETITION_PENALTY = tl.constexpr(INDEX["repetition_penalty"])
SEED_LOW = tl.constexpr(INDEX["seed_low"])
SEED_HIGH = tl.constexpr(INDEX["seed_high"])
POSITION = tl.constexpr(INDEX["position"])
COUNTS_ROW = tl.constexpr(INDEX["counts_row"])
MIN_P = tl.constexpr(INDEX["min_p"])
TYPICAL_P = tl.constexpr(INDEX["typical_p"])
FREQUENCY_PENALTY = tl.constexpr(INDEX["frequency_penalty"])
OUTPUT_FREQUENCY_PENALTY = tl.constexpr(INDEX["output_frequency_penalty"])
PRESENCE_PENALTY = tl.constexpr(INDEX["presence_penalty"])
BIAS_START = tl.constexpr(INDEX["bias_start"])
BIAS_END = tl.constexpr(INDEX["bias_end"])
GRAMMAR = tl.constexpr(INDEX["grammar_row"])
TOP_N = tl.constexpr(INDEX["top_n"])


@triton.jit
def load_int(fields_ptr, stride, row, FIELD: tl.constexpr):
    """A field of a row. ``fields_ptr``: int32 [fields, stride]."""
    return tl.load(fields_ptr + FIELD * stride + row)


@triton.jit
def load_float(fields_ptr, stride, row, FIELD: tl.constexpr):
    """The same of a field that is fp32."""
    return tl.load(fields_ptr + FIELD * stride + row).to(tl.float32, bitcast=True)


@triton.jit
def load_seed(fields_ptr, stride, row):
    """A row's seed, uint64."""
    low = load_int(fields_ptr, stride, row, SEED_LOW).to(tl.uint32, bitcast=True).to(tl.uint64)
    return (load_int(fields_ptr, stride, row, SEED_HIGH).to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | low


@triton.jit
def load_bounds(fields_ptr, stride, row, vocab, FULL: tl.constexpr):
    """What bounds a row's allowed set, and whether anything does: (top_k, top_p, min_p, typical_p, bounded)."""
    top_k = load_int(fields_ptr, stride, row, TOP_K)
    top_k = tl.where(top_k < vocab, top_k, 0)
    top_p = load_float(fields_ptr, stride, row, TOP_P)
    min_p = top_p * 0.0
    typical_p = min_p + 1.0
    if FULL:
        min_p = load_float(fields_ptr, stride, row, MIN_P)
        typical_p = load_float(fields_ptr, stride, row, TYPICAL_P)
    bounded = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0) | (typical_p < 1.0)
    return top_k, top_p, min_p, typical_p, bounded & (load_int(fields_ptr, stride, row, GREEDY) == 0)
