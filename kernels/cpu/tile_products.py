"""What the tile multiplies: rows and weights as they are stored, one step of k at a time, as LLVM IR.

bf16 and narrower weights are read as pairs of k: one instruction adds both products (bf16_dots.py) where the processor
has one, else each half is widened and goes through an fp32 fused multiply-add. 8-bit weights become bf16 or fp32
exactly, in registers.
"""

from typing import Any

from llvmlite import ir
from numba import types

from .bf16_dots import BF16_DOT
from .llvm import F32, I8, I16, I32, I64, LANES, SUMS, WORDS, fma, load, splat

_HALVES = ir.VectorType(I16, LANES)


def _halves(builder, words):
    """Both bf16 values of each word, widened: the first lies in the low half."""
    low = builder.shl(words, ir.Constant(WORDS, [16] * LANES))
    high = builder.and_(words, ir.Constant(WORDS, [0xFFFF0000] * LANES))
    return builder.bitcast(low, SUMS), builder.bitcast(high, SUMS)


def _words(value):
    return ir.Constant(WORDS, [value] * LANES)


def widened_fp8(builder, values):
    """16 values of e4m3 as fp32. Their bits, moved to fp16's places, are 2^-8 of them."""

    def halves(value):
        return ir.Constant(_HALVES, [value] * LANES)

    # The arithmetic shift leaves a copy of the sign behind it. Not by way of fp32's places, which would be one step
    # less: there subnormal values stay subnormal, and multiplying those takes 30 times as long (Intel).
    bits = builder.ashr(builder.shl(builder.zext(values, _HALVES), halves(8)), halves(1))
    half = builder.bitcast(builder.and_(bits, halves(0xBF80)), ir.VectorType(ir.HalfType(), LANES))
    return builder.fmul(builder.fpext(half, SUMS), ir.Constant(SUMS, [2.0**8] * LANES))


def rounded_to_bf16(builder, values):
    """16 values of fp32 as bf16's bits; see bf16.py's ``round_to_bf16``."""
    if BF16_DOT:
        return BF16_DOT.rounded(builder, values)
    bits = builder.bitcast(values, WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    return builder.trunc(builder.lshr(builder.add(bits, builder.add(odd, _words(0x7FFF))), _words(16)), _HALVES)


class _Fp32:
    """fp32 rows, fp32 weights: one value of k in a step."""

    x_type, w_type, w_align, w_step = F32, SUMS, 64, 64

    @staticmethod
    def prepare(_builder, w):
        return w

    @staticmethod
    def load_x(builder, x_row, k):
        return [splat(builder, load(builder, builder.gep(x_row, [k]), 4), SUMS)]

    @staticmethod
    def multiply_add(builder, sums, x, w):
        return fma(builder, x[0], w, sums)


class _Bf16:
    """bf16 rows, bf16 weights: two values of k in a step."""

    x_type, w_type, w_align, w_step = I32, WORDS, 64, 64
    prepare = _Fp32.prepare

    @staticmethod
    def load_x(builder, x_row, k):
        words = splat(builder, load(builder, builder.gep(x_row, [k]), 4), WORDS)
        return [words] if BF16_DOT else _halves(builder, words)

    @staticmethod
    def multiply_add(builder, sums, x, w):
        if BF16_DOT:
            return BF16_DOT.multiply_add(builder, sums, x[0], w)
        for x_half, w_half in zip(x, _halves(builder, w), strict=True):
            sums = fma(builder, x_half, w_half, sums)
        return sums


class _Fp32Bf16:
    """fp32 rows, bf16 weights: exact products, two values of k in a step."""

    x_type, w_type, w_align, w_step = F32, WORDS, 64, 64
    prepare = _Fp32.prepare

    @staticmethod
    def load_x(builder, x_row, k):
        at = builder.mul(k, ir.Constant(I64, 2))
        both = (at, builder.add(at, ir.Constant(I64, 1)))
        return [splat(builder, load(builder, builder.gep(x_row, [i]), 4), SUMS) for i in both]

    @staticmethod
    def multiply_add(builder, sums, x, w):
        for x_half, w_half in zip(x, _halves(builder, w), strict=True):
            sums = fma(builder, x_half, w_half, sums)
        return sums


class _EightBits:
    """8-bit weights, two values of k in a step: both of a lane lie side by side, as bf16's do."""

    w_type, w_align, w_step = ir.VectorType(I8, 2 * LANES), 32, 2 * LANES

    @staticmethod
    def widen(builder, w):
        """16 values as fp32."""
        raise NotImplementedError

    @classmethod
    def _widened(cls, builder, w):
        """fp32 values of lanes 0 to 7, and of 8 to 15, each lane's two side by side."""
        undefined = ir.Constant(cls.w_type, ir.Undefined)
        parts = (range(LANES), range(LANES, 2 * LANES))
        return [
            cls.widen(builder, builder.shuffle_vector(w, undefined, ir.Constant(WORDS, list(part)))) for part in parts
        ]

    @classmethod
    def prepare(cls, builder, w):
        """The values of the first k of each lane, and of the second."""
        low, high = cls._widened(builder, w)
        return [
            builder.shuffle_vector(low, high, ir.Constant(WORDS, list(range(first, 2 * LANES, 2)))) for first in (0, 1)
        ]


class _Int8(_EightBits):
    @staticmethod
    def widen(builder, w):
        return builder.sitofp(builder.sext(w, WORDS), SUMS)

    @classmethod
    def prepare(cls, builder, w):
        pairs = builder.sext(builder.bitcast(w, _HALVES), WORDS)
        first = builder.ashr(builder.shl(pairs, _words(24)), _words(24))
        return [builder.sitofp(part, SUMS) for part in (first, builder.ashr(pairs, _words(8)))]


class _Fp8(_EightBits):
    @staticmethod
    def widen(builder, w):
        return widened_fp8(builder, w)


class _Fp32Rows:
    """fp32 rows beside weights that were prepared: exact products."""

    x_type = F32
    load_x = _Fp32Bf16.load_x

    @staticmethod
    def multiply_add(builder, sums, x, w):
        for x_half, w_half in zip(x, w, strict=True):
            sums = fma(builder, x_half, w_half, sums)
        return sums


class _Bf16Rows(_EightBits):
    """bf16 rows: 8 bits fit bf16 exactly, so its dot product serves, too."""

    x_type = I32
    load_x = _Bf16.load_x

    @classmethod
    def prepare(cls, builder, w):
        return BF16_DOT.pairs(builder, *cls._widened(builder, w)) if BF16_DOT else super().prepare(builder, w)

    @staticmethod
    def multiply_add(builder, sums, x, w):
        return (_Bf16 if BF16_DOT else _Fp32Rows).multiply_add(builder, sums, x, w)


class _Fp32Int8(_Fp32Rows, _Int8): ...


class _Bf16Int8(_Bf16Rows, _Int8): ...


class _Fp32Fp8(_Fp32Rows, _Fp8): ...


class _Bf16Fp8(_Bf16Rows, _Fp8): ...


# By how rows and weights are stored: bf16 as uint16, int8, fp8 as uint8.
PRODUCTS: dict[tuple[types.Type, types.Type], Any] = {
    (types.float32, types.float32): _Fp32,
    (types.uint16, types.uint16): _Bf16,
    (types.float32, types.uint16): _Fp32Bf16,
    (types.float32, types.int8): _Fp32Int8,
    (types.uint16, types.int8): _Bf16Int8,
    (types.float32, types.uint8): _Fp32Fp8,
    (types.uint16, types.uint8): _Bf16Fp8,
}


class _Split:
    """bf16 rows in the order of the tile registers (amx.py): a step has two sums, of its even and of its odd values."""

    x_type = I32

    @staticmethod
    def load_x(builder, x_row, k):
        return _halves(builder, splat(builder, load(builder, builder.gep(x_row, [k]), 4), WORDS))

    @staticmethod
    def multiply_add(builder, sums, x, w):
        weights = w if isinstance(w, list) else _halves(builder, w)
        return [fma(builder, *factors, total) for *factors, total in zip(x, weights, sums, strict=True)]


class _SplitBf16(_Split):
    w_type, w_align, w_step = WORDS, 64, 64
    prepare = _Fp32.prepare


class _SplitInt8(_Split, _Int8): ...


class _SplitFp8(_Split, _Fp8): ...


AMX_ORDER: dict[types.Type, Any] = {types.uint16: _SplitBf16, types.int8: _SplitInt8, types.uint8: _SplitFp8}
