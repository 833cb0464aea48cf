"""The functions of ``kernels/exact.py`` for Triton.

Kernels that use them are launched with ``enable_fp_fusion=False``: a fused multiply-add would round once where the CPU
rounds twice. Divisions are ``div_rn``, since ``/`` is approximate on a GPU.
"""

import triton
import triton.language as tl

from .. import exact

_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (tl.constexpr(c) for c in exact.LN_POLYNOMIAL)
_E0, _E1, _E2, _E3, _E4, _E5 = (tl.constexpr(c) for c in exact.EXP2_POLYNOMIAL)
_LN2_HIGH, _LN2_LOW = tl.constexpr(exact.LN2_HIGH), tl.constexpr(exact.LN2_LOW)
_MINUS_LOG2_E, _FAR = tl.constexpr(exact.MINUS_LOG2_E), tl.constexpr(exact.FAR)
_TWO_POW_MINUS_32, _BELOW_ONE = tl.constexpr(exact.TWO_POW_MINUS_32), tl.constexpr(exact.BELOW_ONE)
_SQRT_HALF_BITS = tl.constexpr(exact.SQRT_HALF_BITS)
_WEIGHT_EXPONENT = tl.constexpr(127 + exact.WEIGHT_BITS)
_HIGHEST = tl.constexpr(exact.HIGHEST_LOGIT)
_LOWEST_MIN_P = tl.constexpr(exact.LOWEST_MIN_P)
_LOWEST_TEMPERATURE = tl.constexpr(exact.LOWEST_TEMPERATURE)


@triton.jit
def ln(x):
    """Natural logarithm of positive normal fp32."""
    bits = x.to(tl.int32, bitcast=True)
    k = (bits - _SQRT_HALF_BITS) >> 23
    g = (bits - (k << 23)).to(tl.float32, bitcast=True) - 1.0
    p = ((((((((_L0 * g + _L1) * g + _L2) * g + _L3) * g + _L4) * g + _L5) * g + _L6) * g + _L7) * g + _L8) * g
    square = g * g
    k = k.to(tl.float32)
    return (g + (p * square + k * _LN2_LOW - square * 0.5)) + k * _LN2_HIGH


@triton.jit
def gumbel(bits):
    """Gumbel noise from uint32 random bits."""
    u = tl.minimum((bits.to(tl.float32) + 0.5) * _TWO_POW_MINUS_32, _BELOW_ONE)
    y = 1.0 - u
    lost = -u - (y - 1.0)
    return -ln(-(ln(y) + lost * (2.0 - y)))


@triton.jit
def _words(key, place, counters, domain):
    """The four random words of each Philox counter (counters, place, domain)."""
    place = place.to(tl.uint64)
    low, high = (place & 0xFFFFFFFF).to(tl.uint32), (place >> 32).to(tl.uint32)
    counters = counters.to(tl.uint32)
    zeros = counters * 0
    return tl.philox(key, counters, zeros + low, zeros + high, zeros + domain)


@triton.jit
def words_of(key, place, token_ids, domain):
    """Random word of single tokens, int32 ids: a counter for each."""
    w0, w1, w2, w3 = _words(key, place, token_ids >> 2, domain)
    word = token_ids & 3
    return tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))


@triton.jit
def words_of_tile(key, place, first_id, domain, TILE: tl.constexpr):
    """Random words of the tokens first_id .. first_id + TILE - 1; first_id is a multiple of 4."""
    w0, w1, w2, w3 = _words(key, place, first_id // 4 + tl.arange(0, TILE // 4), domain)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def plain_weight(r):
    """exp(-r) in units of 2^-40, fp32, for r >= 0 (NaN and infinity weigh next to nothing)."""
    r = tl.where(r <= _FAR, r, _FAR)
    t = r * _MINUS_LOG2_E
    k = (t - 0.5).to(tl.int32)
    f = t - k.to(tl.float32)
    p = (((((_E0 * f + _E1) * f + _E2) * f + _E3) * f + _E4) * f + _E5) * f + 1.0
    return p * ((k + _WEIGHT_EXPONENT) << 23).to(tl.float32, bitcast=True)


@triton.jit
def weight(r):
    """exp(-r) in units of 2^-40, int64, for r >= 0 (NaN and infinity weigh nothing)."""
    return plain_weight(r).to(tl.int64)


@triton.jit
def clean(x):
    """Logits without NaN (never allowed: -inf) and too large values."""
    x = tl.where(x <= _HIGHEST, x, tl.where(x > _HIGHEST, _HIGHEST, float("-inf")))
    return x + 0.0  # -0 and 0 are one value


@triton.jit
def divide(x, divisor):
    """x / scalar, rounded once."""
    return tl.div_rn(x, tl.zeros_like(x) + divisor)


@triton.jit
def inverse_temperature(temperature):
    """1 / temperature, rounded once."""
    return tl.div_rn(1.0, tl.maximum(temperature, _LOWEST_TEMPERATURE))


@triton.jit
def distance_of_min_p(min_p):
    """The distance below the best logit at which a token is min_p times as likely."""
    return tl.maximum(-ln(tl.maximum(min_p, _LOWEST_MIN_P)), 0.0)
