"""The inner loop of every matrix product on the CPU, as LLVM IR: a tile of rows x panels held in registers.

    y[m, 16 p + lane] = sum_k x[m, k] * w[p, k, lane]          m < rows, p < panels

Each output has one accumulator and its sum runs over k in order, whatever the tile's shape: so a row's result does not
depend on how many rows are computed with it, bit by bit. A compiler left to vectorise the plain loop gives that up.

bf16 weights are read as pairs of k: with AVX512-BF16 one ``vdpbf16ps`` does 32 multiply-adds (Intel SDM vol. 2), else
each half is widened and goes through an fp32 fused multiply-add. Measured on 2 Zen 4 cores over the weights of a 135 M
model: 9.3 / 10.7 / 24.6 ms at 1 / 8 / 32 rows (oneDNN's packed linears: 17 / 16 / 31), 413 GFLOP/s at 512 rows.
"""

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

LANES = 16  # outputs of a panel: one 512-bit register of fp32 sums
HAS_BF16_DOT = bool(binding.get_host_cpu_features().get("avx512bf16", False))

_I64, _I32, _I16, _F32 = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.FloatType()
_SUMS = ir.VectorType(_F32, LANES)
_WORDS = ir.VectorType(_I32, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def _declare(module, name, result, arguments):
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def _splat(builder, scalar, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(_WORDS, [0] * LANES))


def _fma(builder, sums, x, w):
    function = _declare(builder.module, f"llvm.fma.v{LANES}f32", _SUMS, [_SUMS] * 3)
    return builder.call(function, [x, w, sums])


def _halves(builder, words):
    """Both bf16 values of each word, widened: the first lies in the low half."""
    low = builder.shl(words, ir.Constant(_WORDS, [16] * LANES))
    high = builder.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES))
    return builder.bitcast(low, _SUMS), builder.bitcast(high, _SUMS)


def _load(builder, pointer, align):
    load = builder.load(pointer)
    load.align = align
    return load


def _prefetch(builder, address):
    pointer = ir.IntType(8).as_pointer()
    function = _declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [pointer, _I32, _I32, _I32])
    # To read, into the second-level cache, data.
    builder.call(function, [builder.inttoptr(address, pointer), *(ir.Constant(_I32, value) for value in (0, 2, 1))])


class _Fp32:
    """fp32 rows, fp32 weights: one value of k in a step."""

    x_type, w_type, w_align = _F32, _SUMS, 64

    @staticmethod
    def load_x(builder, x_row, k):
        return [_splat(builder, _load(builder, builder.gep(x_row, [k]), 4), _SUMS)]

    @staticmethod
    def multiply_add(builder, sums, x, w):
        return _fma(builder, sums, x[0], w)


class _Bf16:
    """bf16 rows, bf16 weights: two values of k in a step."""

    x_type, w_type, w_align = _I32, _WORDS, 64

    @staticmethod
    def load_x(builder, x_row, k):
        words = _splat(builder, _load(builder, builder.gep(x_row, [k]), 4), _WORDS)
        return [words] if HAS_BF16_DOT else _halves(builder, words)

    @staticmethod
    def multiply_add(builder, sums, x, w):
        if HAS_BF16_DOT:
            dot = _declare(builder.module, "llvm.x86.avx512bf16.dpbf16ps.512", _SUMS, [_SUMS, _PAIRS, _PAIRS])
            return builder.call(dot, [sums, builder.bitcast(x[0], _PAIRS), builder.bitcast(w, _PAIRS)])
        for x_half, w_half in zip(x, _halves(builder, w), strict=True):
            sums = _fma(builder, sums, x_half, w_half)
        return sums


class _Fp32Bf16:
    """fp32 rows, bf16 weights: exact products, two values of k in a step."""

    x_type, w_type, w_align = _F32, _WORDS, 64

    @staticmethod
    def load_x(builder, x_row, k):
        at = builder.mul(k, ir.Constant(_I64, 2))
        both = (at, builder.add(at, ir.Constant(_I64, 1)))
        return [_splat(builder, _load(builder, builder.gep(x_row, [i]), 4), _SUMS) for i in both]

    @staticmethod
    def multiply_add(builder, sums, x, w):
        for x_half, w_half in zip(x, _halves(builder, w), strict=True):
            sums = _fma(builder, sums, x_half, w_half)
        return sums


class _Int8:
    """fp32 or bf16 rows, int8 weights: one value of k in a step."""

    w_type, w_align = _BYTES, 16

    @staticmethod
    def widen(builder, w):
        return builder.sitofp(builder.sext(w, _WORDS), _SUMS)

    @classmethod
    def multiply_add(cls, builder, sums, x, w):
        return _fma(builder, sums, x[0], cls.widen(builder, w))


class _Fp8(_Int8):
    """The same with fp8 (e4m3) weights: their bits, moved to fp32's places, are 2^-120 of the value."""

    @staticmethod
    def widen(builder, w):
        def words(value):
            return ir.Constant(_WORDS, [value] * LANES)

        bits = builder.zext(w, _WORDS)
        magnitude = builder.shl(builder.and_(bits, words(0x7F)), words(20))
        sign = builder.shl(builder.and_(bits, words(0x80)), words(24))
        value = builder.bitcast(builder.or_(magnitude, sign), _SUMS)
        return builder.fmul(value, ir.Constant(_SUMS, [2.0**120] * LANES))


class _Fp32Row:
    """One fp32 value of a row, in all lanes."""

    x_type = _F32
    load_x = _Fp32.load_x


class _Bf16Row:
    """One bf16 value of a row, widened, in all lanes."""

    x_type = _I16

    @staticmethod
    def load_x(builder, x_row, k):
        word = builder.zext(_load(builder, builder.gep(x_row, [k]), 2), _I32)
        return [_splat(builder, builder.bitcast(builder.shl(word, ir.Constant(_I32, 16)), _F32), _SUMS)]


class _Fp32Int8(_Fp32Row, _Int8): ...


class _Bf16Int8(_Bf16Row, _Int8): ...


class _Fp32Fp8(_Fp32Row, _Fp8): ...


class _Bf16Fp8(_Bf16Row, _Fp8): ...


# By how rows and weights are stored: bf16 as uint16, int8, fp8 as uint8.
_PRODUCTS: dict[tuple[types.Type, types.Type], Any] = {
    (types.float32, types.float32): _Fp32,
    (types.uint16, types.uint16): _Bf16,
    (types.float32, types.uint16): _Fp32Bf16,
    (types.float32, types.int8): _Fp32Int8,
    (types.uint16, types.int8): _Bf16Int8,
    (types.float32, types.uint8): _Fp32Fp8,
    (types.uint16, types.uint8): _Bf16Fp8,
}


def make_tile(rows: int, panels: int, accumulate: bool = False, ahead: int = 0):
    """A Numba intrinsic for one tile shape.

    Its arguments: any two arrays of the rows' and the weight's type (_PRODUCTS), which only select the code; then
    addresses and strides in bytes: x, x row stride, w, w panel stride, y, y row stride; then the number of steps along
    k (K, or K / 2 with bf16 weights), at least 1. Panels are aligned to one step of theirs. ``accumulate`` adds to y.

    With ``ahead``, two more: an address and a stride in bytes. In each step, one cache line of that many panels there
    is asked for: what will be needed next comes in while this is computed, at the pace at which it is computed.
    """

    def typed(x_like, w_like, addresses):
        products = _PRODUCTS[x_like.dtype, w_like.dtype]

        def codegen(context, builder, _signature, arguments):
            _, _, x, x_stride, w, w_stride, y, y_stride, steps = arguments[:9]
            ahead_lines = [
                builder.add(arguments[9], builder.mul(arguments[10], ir.Constant(_I64, p))) for p in range(ahead)
            ]

            def address(base, stride, index, pointee):
                return builder.inttoptr(
                    builder.add(base, builder.mul(stride, ir.Constant(_I64, index))), pointee.as_pointer()
                )

            x_rows = [address(x, x_stride, m, products.x_type) for m in range(rows)]
            w_panels = [address(w, w_stride, p, products.w_type) for p in range(panels)]
            y_panels = [
                [builder.gep(address(y, y_stride, m, _SUMS), [ir.Constant(_I64, p)]) for p in range(panels)]
                for m in range(rows)
            ]

            def initial(m, p):
                if not accumulate:
                    return ir.Constant(_SUMS, [0.0] * LANES)
                return _load(builder, y_panels[m][p], 4)

            first = [[initial(m, p) for p in range(panels)] for m in range(rows)]
            entry = builder.block
            loop, end = builder.append_basic_block("k_loop"), builder.append_basic_block("k_end")
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(_I64)
            k.add_incoming(ir.Constant(_I64, 0), entry)
            sums = [[builder.phi(_SUMS) for _ in range(panels)] for _ in range(rows)]
            weights = [_load(builder, builder.gep(panel, [k]), products.w_align) for panel in w_panels]
            for line in ahead_lines:
                _prefetch(builder, builder.add(line, builder.mul(k, ir.Constant(_I64, 64))))
            new = []
            for m in range(rows):
                x_splats = products.load_x(builder, x_rows[m], k)
                new.append([products.multiply_add(builder, sums[m][p], x_splats, weights[p]) for p in range(panels)])
            next_k = builder.add(k, ir.Constant(_I64, 1))
            k.add_incoming(next_k, loop)
            for m in range(rows):
                for p in range(panels):
                    sums[m][p].add_incoming(first[m][p], entry)
                    sums[m][p].add_incoming(new[m][p], loop)
            builder.cbranch(builder.icmp_signed("<", next_k, steps), loop, end)

            builder.position_at_end(end)
            for m in range(rows):
                for p in range(panels):
                    store = builder.store(new[m][p], y_panels[m][p])
                    store.align = 4
            return context.get_dummy_value()

        return types.void(x_like, w_like, *[types.intp] * addresses), codegen

    if ahead:

        @intrinsic
        def tile_ahead(_context, x_like, w_like, x, x_stride, w, w_stride, y, y_stride, steps, next_, next_stride):
            return typed(x_like, w_like, 9)

        return tile_ahead

    @intrinsic
    def tile(_context, x_like, w_like, x, x_stride, w, w_stride, y, y_stride, steps):
        return typed(x_like, w_like, 7)

    return tile
