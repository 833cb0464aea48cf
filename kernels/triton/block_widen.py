"""Codes and scales out of the words in which block_form.py keeps them, in registers."""

import triton
import triton.language as tl


@triton.constexpr_function
def _offset(dtype, form):
    """What the PTX adds to a code, to have it in a mantissa whose last bit is 1."""
    if form.bits == 8 and dtype == tl.bfloat16:
        return 0
    return 128 if dtype == tl.bfloat16 else 1024


@triton.constexpr_function
def _pair(half):
    return f"{half * 0x10001:#x}"


@triton.constexpr_function
def _e2m1_asm(is_bf16, part):
    """PTX that moves the bits of two codes (sign, 2 of exponent, 1 of mantissa) to those of bf16 or fp16.

    These have the values, subnormal ones too, times a power of two that a product takes off: nothing is rounded.
    """
    at = 4 * part % 16
    mantissa, power, fma = (6, 0x7F00, "fma.rn.bf16x2") if is_bf16 else (9, 0x7800, "fma.rn.f16x2")  # 2^127, 2^15
    shift = mantissa - at
    lines = [
        ".reg .b32 code, sign, power, zero;",
        f"{'shl' if shift > 0 else 'shr'}.b32 code, $1, {abs(shift)};",
        f"shl.b32 sign, $1, {12 - at};",
        f"lop3.b32 sign, sign, {_pair(0x8000)}, 0, 0xEA;",  # (a & b) | c
        f"lop3.b32 code, code, {_pair(7 << mantissa)}, sign, 0xEA;",
        f"mov.b32 power, {_pair(power)};",
        "mov.b32 zero, 0;",
        f"{fma} $0, code, power, zero;",
    ]
    return "{ " + " ".join(lines) + " }"


@triton.constexpr_function
def pairs_asm(dtype, form, part):
    """PTX for two codes, one in each half of a register: 3 instructions, 5 from two planes, 6 for 8 bits as bf16, 5 for
    E2M1, see ``_e2m1_asm``.

    The bits go into the mantissa of 128 (bf16) or 1024 (fp16), then that and the zero point are taken off; nothing is
    rounded. For 8 bits, of which a bf16 has 7, the highest is widened apart. Operands: the pair, words of the planes,
    and with zero points -128 (-1024, 0) less them.
    """
    low, high = form.low_bits, form.high_bits
    is_bf16 = dtype == tl.bfloat16
    if form.is_e2m1:
        return _e2m1_asm(is_bf16, part)
    assert 0 <= form.zero <= 1 << form.bits
    magic, one, fma = (0x4300, 0x3F80, "fma.rn.bf16x2") if is_bf16 else (0x6400, 0x3C00, "fma.rn.f16x2")
    lines = [
        ".reg .b32 code, more, one, minus;",
        f"shr.b32 code, $1, {low * part % 16};",
        f"mov.b32 one, {_pair(one)};",
    ]
    if form.bits == 8 and is_bf16:
        exponent = max(form.zero.bit_length() - 1, 0)
        minus = 0x8000 | (127 + exponent) << 7 | (form.zero << 7 >> exponent & 127) if form.zero else 0
        lines.append(f"mov.b32 minus, {'$3' if form.zeros else _pair(minus)};")
        lines.append(f"lop3.b32 more, code, {_pair(0x80)}, {_pair(magic)}, 0xEA;")  # (a & b) | c: 128 or 256
        lines.append(f"lop3.b32 code, code, {_pair(0x7F)}, {_pair(magic)}, 0xEA;")
        lines.append(f"{fma} code, code, one, minus;")
        lines.append(f"mov.b32 minus, {_pair(0xC380)};")  # -256
        lines.append(f"{fma} more, more, one, minus;")
        lines.append(f"{fma} $0, code, one, more;")
        return "{ " + " ".join(lines) + " }"
    lines.append(f"lop3.b32 code, code, {_pair((1 << low) - 1)}, {_pair(magic)}, 0xEA;")
    if high:
        shift = high * part % 16 - low
        lines.append(f"{'shr' if shift > 0 else 'shl'}.b32 more, $2, {abs(shift)};")
        lines.append(f"lop3.b32 code, more, {_pair((1 << high) - 1 << low)}, code, 0xEA;")
    # The mantissa of -128 (-1024) less a zero point is the zero point.
    lines.append(f"mov.b32 minus, {'$3' if form.zeros else _pair((0x8000 | magic) + form.zero)};")
    lines.append(f"{fma} $0, code, one, minus;")
    return "{ " + " ".join(lines) + " }"


@triton.jit
def code_values(low, high, part, FORM: tl.constexpr):
    """What codes stand for, before zero points, int32. ``part``: which code of a word; a scalar or a tensor."""
    code = (low.to(tl.int32) >> (part * FORM.low_bits % 16)) & ((1 << FORM.low_bits) - 1)
    if FORM.high_bits:
        more = high.to(tl.int32) >> (part * FORM.high_bits % 16)
        code |= (more & ((1 << FORM.high_bits) - 1)) << FORM.low_bits
    if FORM.has_table:
        entries = tl.where(code < 8, FORM.table_low, FORM.table_high)
        code = (entries >> ((code & 7) * 8).to(tl.int64)).to(tl.int8).to(tl.int32)
    return code


@triton.jit
def widened(low, high, zero, x, PART: tl.constexpr, FORM: tl.constexpr, PAIRS: tl.constexpr):
    """Codes less their zero point in the dtype of ``x``, exact.

    low, high: words of the planes; ``zero``: int32, of each output, read where the form has them. PAIRS: by PTX.
    """
    if PAIRS:
        asm: tl.constexpr = pairs_asm(x.dtype, FORM, PART)
        minus = low
        if FORM.zeros != "":
            minus = (-_offset(x.dtype, FORM) - zero).to(x.dtype).to(tl.int16, bitcast=True)
        weight = tl.inline_asm_elementwise(asm, "=r,r,r,r", [low, high, minus], x.dtype, is_pure=True, pack=2)
    elif FORM.zeros != "":
        weight = (code_values(low, high, PART, FORM) - zero).to(x.dtype)
    else:
        weight = (code_values(low, high, PART, FORM) - FORM.zero).to(x.dtype)
    return weight


@triton.jit
def _field(words_ptrs, at, stride, mask, KIND: tl.constexpr):
    """The value that begins ``at`` bytes after the first of some words, which are ``stride`` apart."""
    word = tl.load(words_ptrs + at // 4 * stride, mask=mask, other=0)
    shift = at % 4 * 8
    if KIND == "float32":
        value = word.to(tl.float32, bitcast=True)
    elif KIND == "float16":
        value = (word >> shift).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif KIND == "bfloat16":
        value = ((word >> shift) << 16).to(tl.float32, bitcast=True)
    elif KIND == "int16":
        value = (word << (16 - shift)) >> 16
    elif KIND == "int8":
        value = (word << (24 - shift)) >> 24
    elif KIND == "low nibble":
        value = (word >> shift) & 15
    else:
        tl.static_assert(KIND == "high nibble")
        value = (word >> (shift + 4)) & 15
    return value


@triton.jit
def group_scale(span_ptrs, base_ptrs, group, stride, mask, FORM: tl.constexpr):
    """Scales of a group of a span, fp32."""
    at = group * FORM.scale_bytes
    if FORM.super_block:
        step = _field(span_ptrs, at, stride, mask, "low nibble" if FORM.nibbles else "int8")
        scale = _field(base_ptrs, 0, stride, mask, FORM.base) * step.to(tl.float32)
    else:
        scale = _field(span_ptrs, at, stride, mask, FORM.base)
    return scale


@triton.jit
def group_minimum(span_ptrs, base_ptrs, group, stride, mask, FORM: tl.constexpr):
    """Minima of a group of a span, fp32."""
    at = FORM.minimum_at + group * FORM.scale_bytes
    if FORM.super_block:
        step = _field(span_ptrs, at, stride, mask, "high nibble" if FORM.nibbles else "int8")
        minimum = _field(base_ptrs, FORM.base_bytes, stride, mask, FORM.base) * step.to(tl.float32)
    else:
        minimum = _field(span_ptrs, at, stride, mask, FORM.base)
    return minimum


@triton.jit
def group_zero(span_ptrs, group, stride, mask, FORM: tl.constexpr):
    """Zero points of a group of a span, int32."""
    return _field(span_ptrs, FORM.zeros_at + group * FORM.zero_bytes, stride, mask, FORM.zeros)
