"""Reads a record of block-quantised weights (block_form.py), as LLVM IR: codes as bf16 pairs, scales as fp32.

One shift (and a merge, where there are two planes) brings 32 codes into place, and one lookup of a table of 32 or 64
words in registers widens them to bf16. With AVX2 the lookup gives bytes, and there is one only where codes stand for
other numbers than themselves.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .block_form import BASE_BYTES, CHUNK, PLANES, BlockForm, place_of
from .byte_dots import look_up_bytes
from .features import SET
from .llvm import F16, I8, I16, I32, LANES, SHORTS, SUMS, WORDS, Loop, declare, load, number
from .tile_products import PRODUCTS

# What a scale is read as, 16 lanes at a time.
_BASE_TYPES = {
    "float16": ir.VectorType(F16, LANES),
    "bfloat16": ir.VectorType(I16, LANES),
    "float32": SUMS,
}


class RecordReader:
    """Reads a panel's codes and scales at one place: a record, and a chunk of it."""

    def __init__(self, builder, form: BlockForm, record, chunk) -> None:
        """``record`` is an address, ``chunk`` a number; both i64."""
        self._builder, self._form, self._record, self._chunk = builder, form, record, chunk
        self._codes = builder.add(
            builder.add(record, number(form.head.size)),
            builder.mul(chunk, number(form.chunk_bytes)),
        )
        self._words: dict[tuple[int, int], ir.Value] = {}  # by plane and word

    def _load(self, base, offset: int, kind: ir.Type, align: int):
        pointer = self._builder.inttoptr(self._builder.add(base, number(offset)), kind.as_pointer())
        return load(self._builder, pointer, align)

    def scales(self, half: int, start: int):
        """Scale of each lane in the unit ``half`` of the chunk, and the factor of the row's sum or None; fp32.

        ``start`` is added to the codes by way of that factor.
        """
        builder, form, head = self._builder, self._form, self._form.head
        group = builder.udiv(
            builder.add(builder.mul(self._chunk, number(CHUNK)), number(half * form.unit)),
            number(form.group),
        )

        def at(offset: int, size: int, kind: ir.Type):
            base = builder.add(self._record, builder.mul(group, number(LANES * size)))
            return self._load(base, offset, kind, min(LANES * size, 64))

        def floats(offset: int, steps: int):
            size, kind = BASE_BYTES[form.base], _BASE_TYPES[form.base]
            if not form.stepped:
                return _to_fp32(builder, form.base, at(offset, size, kind))
            whole = _to_fp32(builder, form.base, self._load(self._record, offset, kind, LANES * size))
            multiple = builder.sext(at(steps, 1, ir.VectorType(I8, LANES)), WORDS)
            return builder.fmul(whole, builder.sitofp(multiple, SUMS))

        scale, correction = floats(head.scale, head.scale_steps), None
        if form.zeros:
            correction = builder.fmul(scale, _to_fp32(builder, "float16", at(head.zero, 2, _BASE_TYPES["float16"])))
        if form.minima:
            minimum = floats(head.minimum, head.minimum_steps)
            correction = minimum if correction is None else builder.fadd(correction, minimum)
        correction = None if correction is None else builder.fneg(correction)
        if start:
            moved = builder.fmul(scale, ir.Constant(SUMS, [float(start)] * LANES))
            correction = moved if correction is None else builder.fadd(correction, moved)
        return scale, correction

    def weights(self, products, step: int):
        """The codes of values of k 2 ``step`` and 2 ``step`` + 1 of the chunk, as ``products`` multiplies them."""
        builder, form = self._builder, self._form
        if form.bits == 8:
            return products.prepare(builder, self._load(self._codes, step * 2 * LANES, products.w_type, 2 * LANES))
        if form.in_place:
            return self._in_place(step)
        if form.is_codebook and not SET.word_lookup:
            return self._look_up(step)
        codes, at, offset = None, 0, 0
        for plane, bits in enumerate(PLANES[form.bits]):
            word, shift = place_of(step, bits)
            if (plane, word) not in self._words:
                self._words[plane, word] = self._load(self._codes, offset + word * 64, SHORTS, 64)
            here = _shift(builder, self._words[plane, word], shift - at)
            masked = len(PLANES[form.bits]) > 1 or not SET.word_lookup  # the lookup reads low bits only
            if masked:
                mask = ((1 << bits) - 1) << at
                here = builder.and_(here, ir.Constant(SHORTS, [mask] * (2 * LANES)))
            codes = here if codes is None else builder.or_(codes, here)
            at, offset = at + bits, offset + bits * CHUNK * LANES // 8
        return _look_up(builder, form, codes)

    def quads(self, quad: int):
        """The chunk's codes of a quad (``order_of``) less ``form.byte_start``, as unsigned bytes: four of each lane.

        For products of bytes; needs ``form.takes_int8``.
        """
        builder, form = self._builder, self._form
        if form.bits == 8:
            steps = self._load(self._codes, quad * 4 * LANES, SHORTS, 64)  # of each, all lanes
            by_lane = [step * LANES + lane for lane in range(LANES) for step in (0, 1)]
            undefined, mask = ir.Constant(SHORTS, ir.Undefined), ir.Constant(ir.VectorType(I32, 2 * LANES), by_lane)
            words = builder.bitcast(builder.shuffle_vector(steps, undefined, mask), WORDS)
            return builder.xor(words, ir.Constant(WORDS, [0x80808080] * LANES))  # 128 more
        codes, at, offset = None, 0, 0
        for plane, bits in enumerate(PLANES[form.bits]):
            word, shift = quad * bits // 8, quad * bits % 8
            if (plane, word) not in self._words:
                self._words[plane, word] = self._load(self._codes, offset + word * 64, WORDS, 64)
            here = _shift(builder, self._words[plane, word], shift - at, WORDS)
            here = builder.and_(here, ir.Constant(WORDS, [(((1 << bits) - 1) << at) * 0x01010101] * LANES))
            codes = here if codes is None else builder.or_(codes, here)
            at, offset = at + bits, offset + bits * CHUNK * LANES // 8
        if form.is_codebook:
            return look_up_bytes(builder, [value - form.byte_start for value in form.table], codes)
        return codes

    def _in_place(self, step: int):
        """Codes times their places, as fp32: of the first k of each lane, and of the second."""
        builder, bits = self._builder, self._form.bits
        word, shift = place_of(step, bits)
        if (0, word) not in self._words:
            both = self._load(self._codes, word * 64, WORDS, 64)
            self._words[0, word] = both
            self._words[1, word] = builder.lshr(both, ir.Constant(WORDS, [16] * LANES))
        mask = ir.Constant(WORDS, [((1 << bits) - 1) << shift] * LANES)
        return [builder.sitofp(builder.and_(self._words[parity, word], mask), SUMS) for parity in (0, 1)]

    def _look_up(self, step: int):
        """fp32 of the first k of each lane, and of the second. A word has four codes, of which every other is looked up
        at a time.
        """
        builder = self._builder
        word, shift = place_of(step, 4)
        high, odd = shift // 8, shift % 8 // 4
        if (word, odd) not in self._words:
            words = self._load(self._codes, word * 64, WORDS, 64)
            codes = builder.and_(_shift(builder, words, 4 * odd, WORDS), ir.Constant(WORDS, [0x0F0F0F0F] * LANES))
            self._words[word, odd] = look_up_bytes(builder, self._form.table, codes)
        ends = (_shift(builder, self._words[word, odd], -left, WORDS) for left in (24 - 8 * high, 8 - 8 * high))
        return [builder.sitofp(builder.ashr(end, ir.Constant(WORDS, [24] * LANES)), SUMS) for end in ends]


def _shift(builder, words, right: int, kind: ir.VectorType = SHORTS):
    """By so many bits to the right; to the left if negative."""
    if right == 0:
        return words
    amount = ir.Constant(kind, [abs(right)] * kind.count)
    return builder.lshr(words, amount) if right > 0 else builder.shl(words, amount)


def _look_up(builder, form: BlockForm, codes):
    """bf16 pairs of the codes' values; without the lookup, fp32 of the first k of each lane, and of the second."""
    values = form.table
    if SET.word_lookup:
        words = 64 if form.bits == 6 else 32
        table = [_bf16_bits(values[index % (1 << form.bits)]) for index in range(words)]
        parts = [ir.Constant(SHORTS, table[start : start + 32]) for start in range(0, words, 32)]
        if len(parts) == 1:
            name, arguments = "llvm.x86.avx512.permvar.hi.512", [parts[0], codes]
        else:
            name, arguments = "llvm.x86.avx512.vpermi2var.hi.512", [parts[0], codes, parts[1]]
        function = declare(builder.module, name, SHORTS, [SHORTS] * len(arguments))
        return builder.bitcast(builder.call(function, arguments), WORDS)
    pairs = builder.bitcast(codes, WORDS)
    first = builder.and_(pairs, ir.Constant(WORDS, [0xFFFF] * LANES))
    second = builder.lshr(pairs, ir.Constant(WORDS, [16] * LANES))
    return [builder.sitofp(part, SUMS) for part in (first, second)]


def _bf16_pairs(builder, first, second):
    """fp32 values that bf16 has exactly."""
    low = builder.lshr(builder.bitcast(first, WORDS), ir.Constant(WORDS, [16] * LANES))
    return builder.or_(builder.bitcast(second, WORDS), low)


def _bf16_bits(value: int) -> int:
    """Of a whole number of up to 8 bits, which bf16 has exactly."""
    return int(np.float32(value).view(np.uint32) >> 16)


def _to_fp32(builder, base: str, values):
    if base == "float16":
        return builder.fpext(values, SUMS)
    if base == "bfloat16":
        words = builder.zext(values, WORDS)
        return builder.bitcast(builder.shl(words, ir.Constant(WORDS, [16] * LANES)), SUMS)
    return values


def stored_as(form: BlockForm) -> types.Type:
    return types.int8 if form.bits == 8 or not SET.word_lookup else types.uint16


@intrinsic
def widen_record(_context, form, record, target):
    """Write a record for many rows (BlockForm says how it then lies), so that its codes are widened once for all.

    ``record`` and ``target`` are addresses, multiples of 64.
    """
    what = form.instance_type

    def codegen(context, builder, _signature, arguments):
        _, record, target = arguments
        products = PRODUCTS[types.uint16, stored_as(what)]
        chunks = Loop(builder, number(what.chunks), "chunk")
        reader = RecordReader(builder, what, record, chunks.index)
        at = widened_codes(builder, target, chunks.index)
        for step in range(CHUNK // 2):
            pairs = reader.weights(products, step)
            if isinstance(pairs, list):
                pairs = _bf16_pairs(builder, *pairs)
            builder.store(pairs, builder.gep(at, [number(step)])).align = 64
        for half in range(CHUNK // what.unit):
            places = widened_scales(builder, what, target, chunks.index, half)
            for value, place in zip(reader.scales(half, what.start), places, strict=True):
                if value is not None:
                    builder.store(value, place).align = 64
        chunks.close()
        return context.get_dummy_value()

    return types.void(form, types.intp, types.intp), codegen


def widened_codes(builder, target, chunk):
    """Pointer to the 16 x 32 codes of a chunk of a widened record, a step a register."""
    return builder.inttoptr(builder.add(target, builder.mul(chunk, number(CHUNK * LANES * 2))), WORDS.as_pointer())


def widened_scales(builder, form: BlockForm, target, chunk, half: int):
    """Pointers to a unit's scale and correction in a widened record."""
    unit = builder.add(builder.mul(chunk, number(CHUNK // form.unit)), number(half))
    at = builder.add(builder.add(target, number(form.widened_scales)), builder.mul(unit, number(2 * LANES * 4)))
    scale = builder.inttoptr(at, SUMS.as_pointer())
    return scale, builder.gep(scale, [number(1)])
