"""Rows of a block-quantised weight, as an embedding reads them."""

import numpy as np
from numba import njit, types

from .block_form import BASE_BYTES, CHUNK, PLANES, place_of
from .llvm import LANES
from .machine import array_at, half_at
from .op_graph import struct_dtype, work_item
from .storage import widen

EMBED = struct_dtype(w=int, token_ids=int, x=int, hidden=int, w_stride=int, scale=float)
_place_of = njit(inline="always")(place_of)


@njit(inline="always")
def _base(address, is_half, is_bf16):
    """A scale or minimum as fp32."""
    if is_half:
        return half_at(address)
    if is_bf16:
        return widen(array_at(address, 1, types.uint16)[0])
    return array_at(address, 1, types.float32)[0]


@work_item
def embed_blocks(form):
    """One row of a weight, read lane by lane: few values beside a step's products."""
    head, record_bytes, chunk_bytes = form.head, form.record_bytes, form.chunk_bytes
    codes_at, scale_at, minimum_at, zero_at = head.size, head.scale, head.minimum, head.zero
    scale_steps, minimum_steps = head.scale_steps, head.minimum_steps
    bits, planes, table = form.bits, PLANES[form.bits], np.array(form.table or (0,), np.float32)
    chunks, group, groups = form.chunks, form.group, form.groups
    stepped, zeros, minima = form.stepped, form.zeros, form.minima
    base_size = BASE_BYTES[form.base]
    is_half, is_bf16 = form.base == "float16", form.base == "bfloat16"

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, EMBED)[0]
        token = array_at(a.token_ids, rows, types.int64)[item]
        lane = token % LANES
        panel = a.w + token // LANES * a.w_stride
        x = array_at(a.x + item * a.hidden * 4, a.hidden, types.float32)
        for record in range(a.hidden // (chunks * CHUNK)):
            at = panel + record * record_bytes
            for g in range(groups):
                base = 0 if stepped else g
                scale = _base(at + scale_at + (base * LANES + lane) * base_size, is_half, is_bf16)
                if stepped:
                    scale *= np.float32(array_at(at + scale_steps + g * LANES + lane, 1, types.int8)[0])
                minimum = np.float32(0.0)
                if minima:
                    minimum = _base(at + minimum_at + (base * LANES + lane) * base_size, is_half, is_bf16)
                    if stepped:
                        minimum *= np.float32(array_at(at + minimum_steps + g * LANES + lane, 1, types.int8)[0])
                zero = np.float32(0.0)
                if zeros:
                    zero = half_at(at + zero_at + (g * LANES + lane) * 2)
                for i in range(g * group, g * group + group):
                    chunk, step, parity = i // CHUNK, i % CHUNK // 2, i % 2
                    code_at = at + codes_at + chunk * chunk_bytes
                    if bits == 8:
                        value = np.float32(array_at(code_at + step * 2 * LANES + lane * 2 + parity, 1, types.int8)[0])
                    else:
                        code, low = 0, 0
                        for width in planes:
                            place, shift = _place_of(step, width)
                            word = array_at(code_at + place * 64 + lane * 4 + parity * 2, 1, types.uint16)[0]
                            code |= ((word >> shift) & ((1 << width) - 1)) << low
                            low += width
                            code_at += width * 64
                        value = table[code]
                    x[record * chunks * CHUNK + i] = (scale * (value - zero) - minimum) * a.scale

    return kernel
