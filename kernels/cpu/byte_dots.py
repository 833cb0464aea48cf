"""Products of four bytes of each lane, added to whole numbers: one class for each way to do it, as LLVM IR.

Codes are unsigned bytes, rows signed ones from -127 to 127. All are exact, so all give the same. And looking 16 codes
up in a table of bytes.
"""

from collections.abc import Sequence
from typing import Protocol

from llvmlite import ir

from .features import SET
from .llvm import I8, I16, I32, LANES, WORDS, declare
from .registers import by_parts, joined, parts_of


class ByteDot(Protocol):
    """How products of bytes are added.

    Attributes:
        takes_wide: whether codes of all 8 bits are multiplied as they are; else 128 less than they are.
    """

    takes_wide: bool

    @staticmethod
    def add(builder, sums, codes, x, is_wide: bool) -> ir.Value:
        """``sums`` int32 + the products in words of four bytes; ``is_wide``: codes may have 8 bits, else 7."""


class _Vpdpbusd512:
    """AVX512-VNNI (Intel SDM vol. 2)."""

    takes_wide = True

    @staticmethod
    def add(builder, sums, codes, x, is_wide):
        del is_wide
        kind = ir.VectorType(I8, 4 * LANES)
        dot = declare(builder.module, "llvm.x86.avx512.vpdpbusd.512", WORDS, [WORDS, kind, kind])
        return builder.call(dot, [sums, builder.bitcast(codes, kind), builder.bitcast(x, kind)])


class _Vpdpbusd256:
    """AVX-VNNI: the same of 8 lanes."""

    takes_wide = True

    @staticmethod
    def add(builder, sums, codes, x, is_wide):
        del is_wide
        words, kind = ir.VectorType(I32, LANES // 2), ir.VectorType(I8, 2 * LANES)
        dot = declare(builder.module, "llvm.x86.avx512.vpdpbusd.256", words, [words, kind, kind])

        def of_half(sums, codes, x):
            return builder.call(dot, [sums, builder.bitcast(codes, kind), builder.bitcast(x, kind)])

        return by_parts(builder, 2, of_half, sums, codes, x)


class _Vpmaddubsw:
    """AVX2: products of two are added in 16 bits, which hold those of two codes of up to 7 bits; what may be wider is
    taken with its sign, as at most 128.
    """

    takes_wide = False

    @staticmethod
    def add(builder, sums, codes, x, is_wide):
        words, kind, pairs_kind = (ir.VectorType(I32, 8), ir.VectorType(I8, 32), ir.VectorType(I16, 16))
        by_two = declare(builder.module, "llvm.x86.avx2.pmadd.ub.sw", pairs_kind, [kind] * 2)
        by_four = declare(builder.module, "llvm.x86.avx2.pmadd.wd", words, [pairs_kind] * 2)
        absolute = declare(builder.module, "llvm.abs.v32i8", kind, [kind, ir.IntType(1)])
        signed = declare(builder.module, "llvm.x86.avx2.psign.b", kind, [kind] * 2)
        ones = ir.Constant(pairs_kind, [1] * 16)

        def of_half(sums, codes, x):
            left, right = builder.bitcast(codes, kind), builder.bitcast(x, kind)
            if is_wide:
                left = builder.xor(left, ir.Constant(kind, [0x80] * 32))
                right = builder.call(signed, [right, left])
                left = builder.call(absolute, [left, ir.Constant(ir.IntType(1), 0)])
            pairs = builder.call(by_two, [left, right])
            return builder.add(sums, builder.call(by_four, [pairs, ones]))

        return by_parts(builder, 2, of_half, sums, codes, x)


class _SignedNeon:
    """Both factors have signs: codes that may be wide are taken as 128 less."""

    takes_wide = False

    @classmethod
    def add(cls, builder, sums, codes, x, is_wide):
        kind = ir.VectorType(I8, 16)

        def of_four(sums, codes, x):
            left, right = builder.bitcast(codes, kind), builder.bitcast(x, kind)
            if is_wide:
                left = builder.xor(left, ir.Constant(kind, [0x80] * 16))
            return cls.of_four(builder, sums, left, right)

        return by_parts(builder, LANES // 4, of_four, sums, codes, x)

    @staticmethod
    def of_four(builder, sums, left, right) -> ir.Value:
        """int32 [4] + the products of int8 [16], four each."""
        raise NotImplementedError


class _Sdot(_SignedNeon):
    """Arm's FEAT_DotProd: 4 lanes."""

    @staticmethod
    def of_four(builder, sums, left, right):
        words, kind = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
        dot = declare(builder.module, "llvm.aarch64.neon.sdot.v4i32.v16i8", words, [words, kind, kind])
        return builder.call(dot, [sums, left, right])


class _Smull(_SignedNeon):
    """Every NEON: products in 16 bits, which hold the sum of two of 128 times 127."""

    @staticmethod
    def of_four(builder, sums, left, right):
        half, pairs, words = ir.VectorType(I8, 8), ir.VectorType(I16, 8), ir.VectorType(I32, 4)
        product = declare(builder.module, "llvm.aarch64.neon.smull.v8i16", pairs, [half, half])
        by_two = declare(builder.module, "llvm.aarch64.neon.addp.v8i16", pairs, [pairs, pairs])
        by_four = declare(builder.module, "llvm.aarch64.neon.saddlp.v4i32.v8i16", words, [pairs])
        factors = zip(parts_of(builder, left, 2), parts_of(builder, right, 2), strict=True)
        twos = builder.call(by_two, [builder.call(product, each) for each in factors])
        return builder.add(sums, builder.call(by_four, [twos]))  # sadalp


_BYTE_DOTS: dict[str, type[ByteDot]] = {
    "vpdpbusd_512": _Vpdpbusd512, "vpdpbusd_256": _Vpdpbusd256, "vpmaddubsw": _Vpmaddubsw, "sdot": _Sdot,
    "smull": _Smull,
}  # fmt: skip
BYTE_DOT = _BYTE_DOTS[SET.byte_dot] if SET.byte_dot else None

# LLVM's name of the instruction, and the bytes that it takes.
_LOOKUPS = {
    "vpshufb_512": ("llvm.x86.avx512.pshuf.b.512", 64),
    "vpshufb": ("llvm.x86.avx2.pshuf.b", 32),
    "tbl": ("llvm.aarch64.neon.tbl1.v16i8", 16),
}


def look_up_bytes(builder, values: Sequence[int], codes) -> ir.Value:
    """Values, 16 of them, of codes of 4 bits, one in each byte of 16 words. Needs a set with ``byte_lookup``."""
    assert SET.byte_lookup is not None
    name, size = _LOOKUPS[SET.byte_lookup]
    kind = ir.VectorType(I8, size)
    table = ir.Constant(kind, [value & 255 for value in (*values,) * (size // 16)])  # for each 128 bits
    shuffle = declare(builder.module, name, kind, [kind, kind])
    parts = [
        builder.bitcast(builder.call(shuffle, [table, builder.bitcast(part, kind)]), ir.VectorType(I32, size // 4))
        for part in parts_of(builder, codes, 4 * LANES // size)
    ]
    return joined(builder, parts)
