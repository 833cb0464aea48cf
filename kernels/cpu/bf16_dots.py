"""Products of bf16 pairs with fp32 sums, one class for each instruction that does them, as LLVM IR.

Each takes vectors of 16 words: two bf16 values of k of each lane, side by side.
"""

from typing import Protocol

from llvmlite import ir

from .features import SET
from .llvm import F32, I16, LANES, PAIRS, SUMS, WORDS, BFloat, declare
from .registers import by_parts

_HALVES = ir.VectorType(I16, LANES)


class Bf16Dot(Protocol):
    """An instruction that adds both products of a lane."""

    @staticmethod
    def multiply_add(builder, sums, x, w) -> ir.Value:
        """``sums`` fp32 + the products of the pairs in words ``x`` and ``w``."""

    @staticmethod
    def rounded(builder, values) -> ir.Value:
        """16 values of fp32 as bf16's bits, to nearest, ties to even."""

    @staticmethod
    def pairs(builder, low, high) -> ir.Value:
        """32 fp32 values that bf16 has exactly as words, in order: those of ``low`` first."""


class _Vdpbf16ps:
    """AVX512-BF16 (Intel SDM vol. 2): 16 lanes; subnormal values count as zero."""

    @staticmethod
    def multiply_add(builder, sums, x, w):
        dot = declare(builder.module, "llvm.x86.avx512bf16.dpbf16ps.512", SUMS, [SUMS, PAIRS, PAIRS])
        return builder.call(dot, [sums, builder.bitcast(x, PAIRS), builder.bitcast(w, PAIRS)])

    @staticmethod
    def rounded(builder, values):
        narrow = declare(builder.module, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(BFloat(), LANES), [SUMS])
        return builder.bitcast(builder.call(narrow, [values]), _HALVES)

    @staticmethod
    def pairs(builder, low, high):
        narrow = declare(builder.module, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", PAIRS, [SUMS, SUMS])
        return builder.bitcast(builder.call(narrow, [high, low]), WORDS)


class _Bfdot:
    """Arm's FEAT_BF16 (Arm ARM, BFDOT): 4 lanes. Sums are rounded to odd and subnormal values count as zero, unless the
    processor has FEAT_EBF16 and was told otherwise; whatever it is, a row's sum depends on the row alone.
    """

    @staticmethod
    def multiply_add(builder, sums, x, w):
        four, eight = ir.VectorType(F32, 4), ir.VectorType(BFloat(), 8)
        dot = declare(builder.module, "llvm.aarch64.neon.bfdot.v4f32.v8bf16", four, [four, eight, eight])

        def of_four(sums, x, w):
            return builder.call(dot, [sums, builder.bitcast(x, eight), builder.bitcast(w, eight)])

        return by_parts(builder, LANES // 4, of_four, sums, x, w)

    @staticmethod
    def rounded(builder, values):
        return builder.bitcast(builder.fptrunc(values, ir.VectorType(BFloat(), LANES)), _HALVES)  # bfcvtn

    @staticmethod
    def pairs(builder, low, high):
        kind = ir.VectorType(I16, 2 * LANES)
        upper = ir.Constant(ir.VectorType(WORDS.element, 2 * LANES), list(range(1, 4 * LANES, 2)))  # uzp2
        return builder.bitcast(builder.shuffle_vector(*(builder.bitcast(v, kind) for v in (low, high)), upper), WORDS)


BF16_DOTS: dict[str, type[Bf16Dot]] = {"vdpbf16ps": _Vdpbf16ps, "bfdot": _Bfdot}
BF16_DOT = BF16_DOTS[SET.bf16_dot] if SET.bf16_dot else None
