"""The functions of ``kernels/exact.py`` for Numba: without fast-math LLVM neither fuses nor reorders.

Numba widens int32 results to int64; the casts keep them narrow, so that loops vectorise at full width.
"""

import numpy as np
from numba import njit

from .. import exact

inline = njit(cache=True, forceinline=True, error_model="numpy")

_F, _I, _U = np.float32, np.int32, np.uint32
_M0, _M1 = np.uint64(exact.PHILOX_M0), np.uint64(exact.PHILOX_M1)
_W0, _W1 = _U(exact.PHILOX_W0), _U(exact.PHILOX_W1)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (_F(c) for c in exact.LN_POLYNOMIAL)
_E0, _E1, _E2, _E3, _E4, _E5 = (_F(c) for c in exact.EXP2_POLYNOMIAL)
_LN2_HIGH, _LN2_LOW = _F(exact.LN2_HIGH), _F(exact.LN2_LOW)
_MINUS_LOG2_E, _FAR = _F(exact.MINUS_LOG2_E), _F(exact.FAR)
_TWO_POW_MINUS_32, _BELOW_ONE = _F(exact.TWO_POW_MINUS_32), _F(exact.BELOW_ONE)
_HALF, _ONE, _TWO = _F(0.5), _F(1.0), _F(2.0)
_SQRT_HALF_BITS = _I(exact.SQRT_HALF_BITS)
_WEIGHT_EXPONENT = _I(127 + exact.WEIGHT_BITS)
_MANTISSA_BITS = _I(23)
_LOWEST = _F(-np.inf)
_HIGHEST = _F(exact.HIGHEST_LOGIT)


@inline
def philox(key0, key1, c0, c1, c2, c3):
    """Philox-4x32-10 of the counter (c0, c1, c2, c3); all uint32. Returns the four words."""
    for _ in range(10):
        product0 = np.uint64(c0) * _M0
        product1 = np.uint64(c2) * _M1
        c0 = _U(_U(product1 >> np.uint64(32)) ^ c1 ^ key0)
        c2 = _U(_U(product0 >> np.uint64(32)) ^ c3 ^ key1)
        c1 = _U(product1)
        c3 = _U(product0)
        key0 = _U(key0 + _W0)
        key1 = _U(key1 + _W1)
    return c0, c1, c2, c3


@inline
def ln(x):
    """Natural logarithm of a positive normal fp32."""
    bits = _F(x).view(np.int32)
    k = _I(_I(bits - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    g = _I(bits - _I(k << _MANTISSA_BITS)).view(np.float32) - _ONE
    p = ((((((((_L0 * g + _L1) * g + _L2) * g + _L3) * g + _L4) * g + _L5) * g + _L6) * g + _L7) * g + _L8) * g
    square = g * g
    exponent = _F(k)
    return (g + (p * square + exponent * _LN2_LOW - square * _HALF)) + exponent * _LN2_HIGH


@inline
def gumbel(bits):
    """Gumbel noise from 32 random bits."""
    u = min((_F(bits) + _HALF) * _TWO_POW_MINUS_32, _BELOW_ONE)
    y = _ONE - u
    lost = -u - (y - _ONE)
    return -ln(-(ln(y) + lost * (_TWO - y)))


@inline
def weight(r):
    """exp(-r) in units of 2^-40, int64, for r >= 0 (NaN and infinity weigh nothing)."""
    r = r if r <= _FAR else _FAR
    t = r * _MINUS_LOG2_E
    k = _I(t - _HALF)
    f = t - _F(k)
    p = (((((_E0 * f + _E1) * f + _E2) * f + _E3) * f + _E4) * f + _E5) * f + _ONE
    return np.int64(p * _I(_I(k + _WEIGHT_EXPONENT) << _MANTISSA_BITS).view(np.float32))


@inline
def clean(x):
    """A logit without NaN (never allowed: -inf) and too large values."""
    x = x if x <= _HIGHEST else (_HIGHEST if x > _HIGHEST else _LOWEST)
    return x + _F(0.0)  # -0 and 0 are one value


@inline
def ordered(x):
    """An int32 that sorts like the fp32 ``x`` (no NaN): integer maxima vectorise, fp32 ones don't."""
    bits = _F(x).view(np.int32)
    return _I(bits ^ _I(_I(bits >> _I(31)) & _I(0x7FFFFFFF)))


@inline
def unordered(key):
    """The fp32 whose ``ordered`` is ``key``."""
    return _I(key ^ _I(_I(key >> _I(31)) & _I(0x7FFFFFFF))).view(np.float32)
