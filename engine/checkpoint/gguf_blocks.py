"""Stored blocks of a GGUF -> the one description of block-quantised weights (kernels/block_weight.py), without loss.

Layouts: ``block_q4_0`` and its like in https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
"""

from collections.abc import Callable

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ...kernels.block_weight import BlockWeight, Scales
from .mxfp4 import mxfp4_weight

Bytes = NDArray[np.uint8]  # [out, blocks, bytes of a block], or a part of the last

SUPER_BLOCK = 256
# What a 4-bit code of IQ4_NL and IQ4_XS stands for.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def block_weight(rows: Bytes, kind: GGMLQuantizationType) -> BlockWeight | None:
    """``rows``: [out, bytes of a row]. None if ``kind`` is no kind of block that is known here."""
    if kind not in READERS:
        return None
    block_bytes, read = READERS[kind]
    return read(rows.reshape(len(rows), -1, block_bytes))


def _halves(blocks: Bytes, start: int) -> torch.Tensor:
    """fp16 [out, blocks] at a place in each block."""
    return torch.from_numpy(np.ascontiguousarray(blocks[..., start : start + 2].view(np.float16)[..., 0]))


def _rows(parts: NDArray) -> torch.Tensor:
    """[out, anything] -> [out, all of it]."""
    return torch.from_numpy(np.ascontiguousarray(parts)).reshape(len(parts), -1)


def _spread(packed: Bytes, shifts: tuple[int, ...], bits: int) -> Bytes:
    """[..., n] -> [..., shifts * n]: of all bytes the ``bits`` from the first place on, then from the next."""
    from .take_bits import take_bits  # with Numba, which other files of weights do without

    *outer, n = packed.shape
    parts = packed.reshape(-1, outer[-1] if len(outer) > 2 else 1, n)  # as the parts of blocks lie: not copied
    codes = np.empty((*outer, len(shifts) * n), np.uint8)
    take_bits(parts, shifts, bits, codes.reshape(*parts.shape[:2], len(shifts) * n))
    return codes


def _nibbles(blocks: Bytes) -> Bytes:
    """16 bytes hold the low halves of values 0 to 15, then of 16 to 31."""
    return _spread(blocks, (0, 4), 4)


def _fifth_bits(blocks: Bytes) -> Bytes:
    """4 bytes -> 32 bits, as the fifth bit of a code."""
    return np.unpackbits(blocks, axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> BlockWeight:
    return BlockWeight(_rows(_nibbles(blocks[..., 2:])), 4, 32, Scales(_halves(blocks, 0)), zero=8)


def _q4_1(blocks: Bytes) -> BlockWeight:
    codes, minimum = _rows(_nibbles(blocks[..., 4:])), Scales(-_halves(blocks, 2))
    return BlockWeight(codes, 4, 32, Scales(_halves(blocks, 0)), minimum=minimum)


def _q5_0(blocks: Bytes) -> BlockWeight:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return BlockWeight(_rows(codes), 5, 32, Scales(_halves(blocks, 0)), zero=16)


def _q5_1(blocks: Bytes) -> BlockWeight:
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return BlockWeight(_rows(codes), 5, 32, Scales(_halves(blocks, 0)), minimum=Scales(-_halves(blocks, 2)))


def _q8_0(blocks: Bytes) -> BlockWeight:
    return BlockWeight(_rows(blocks[..., 2:] ^ np.uint8(128)), 8, 32, Scales(_halves(blocks, 0)), zero=128)


def _two_bits(blocks: Bytes) -> Bytes:
    """64 bytes: of each 128 values, 32 bytes hold four lots of 32."""
    halves = blocks.reshape(*blocks.shape[:-1], 2, 32)
    return _spread(halves, (0, 2, 4, 6), 2).reshape(*blocks.shape[:-1], SUPER_BLOCK)


def _q2_k(blocks: Bytes) -> BlockWeight:
    steps = blocks[..., :16]
    scale = Scales(_halves(blocks, 80), _rows((steps & 15).view(np.int8)))
    minimum = Scales(_halves(blocks, 82), _rows((steps >> 4).view(np.int8)))
    return BlockWeight(_rows(_two_bits(blocks[..., 16:80])), 2, 16, scale, minimum=minimum)


def _q3_k(blocks: Bytes) -> BlockWeight:
    high = _spread(blocks[..., :32], tuple(range(8)), 1)
    codes = _two_bits(blocks[..., 32:96]) | high << np.uint8(2)
    packed = blocks[..., 96:108]
    low = _spread(packed[..., :8], (0, 4), 4)
    upper = _spread(packed[..., 8:], (0, 2, 4, 6), 2)
    steps = (low | upper << np.uint8(4)).view(np.int8) - np.int8(32)
    return BlockWeight(_rows(codes), 3, 16, Scales(_halves(blocks, 108), _rows(steps)), zero=4)


def _scales_and_minima(blocks: Bytes) -> tuple[Scales, Scales]:
    """Of Q4_K and Q5_K: two fp16, then 8 pairs of 6-bit steps in 12 bytes."""
    first, second, third = np.moveaxis(blocks[..., 4:16].view(np.uint32), -1, 0)
    low, six, high = (np.uint32(0x01010101 * bits) for bits in (0x0F, 0x3F, 0x30))
    steps = np.stack([first & six, third & low | first >> 2 & high], -1)
    minima = np.stack([second & six, third >> 4 & low | second >> 2 & high], -1)
    return (
        Scales(_halves(blocks, 0), _rows(steps.view(np.int8))),
        Scales(_halves(blocks, 2), _rows(minima.view(np.int8))),
    )


def _nibbles_of_64(blocks: Bytes) -> Bytes:
    """128 bytes: of each 64 values, 32 bytes hold the first half in their low halves."""
    quarters = blocks.reshape(*blocks.shape[:-1], 4, 32)
    return _spread(quarters, (0, 4), 4).reshape(*blocks.shape[:-1], SUPER_BLOCK)


def _q4_k(blocks: Bytes) -> BlockWeight:
    scale, minimum = _scales_and_minima(blocks)
    return BlockWeight(_rows(_nibbles_of_64(blocks[..., 16:])), 4, 32, scale, minimum=minimum)


def _q5_k(blocks: Bytes) -> BlockWeight:
    scale, minimum = _scales_and_minima(blocks)
    high = _spread(blocks[..., 16:48], tuple(range(8)), 1)
    codes = _nibbles_of_64(blocks[..., 48:]) | high << np.uint8(4)
    return BlockWeight(_rows(codes), 5, 32, scale, minimum=minimum)


def _q6_k(blocks: Bytes) -> BlockWeight:
    low = blocks[..., :128].reshape(*blocks.shape[:-1], 2, 64)
    high = blocks[..., 128:192].reshape(*blocks.shape[:-1], 2, 32)
    codes = _spread(low, (0, 4), 4) | _spread(high, (0, 2, 4, 6), 2) << np.uint8(4)
    steps = _rows(np.ascontiguousarray(blocks[..., 192:208]).view(np.int8))
    return BlockWeight(
        _rows(codes.reshape(*blocks.shape[:-1], SUPER_BLOCK)), 6, 16, Scales(_halves(blocks, 208), steps), zero=32
    )


def _iq4_nl(blocks: Bytes) -> BlockWeight:
    return BlockWeight(_rows(_nibbles(blocks[..., 2:])), 4, 32, Scales(_halves(blocks, 0)), table=IQ4_VALUES)


def _iq4_xs(blocks: Bytes) -> BlockWeight:
    high = _spread(blocks[..., 2:4], (0, 2, 4, 6), 2).reshape(*blocks.shape[:-1], 4, 2).swapaxes(-1, -2)
    low = _spread(blocks[..., 4:8], (0, 4), 4).reshape(*blocks.shape[:-1], 2, 4).swapaxes(-1, -2)
    both = low.reshape(*blocks.shape[:-1], 8) | high.reshape(*blocks.shape[:-1], 8) << np.uint8(4)
    steps = both.view(np.int8) - np.int8(32)
    codes = _nibbles(blocks[..., 8:].reshape(*blocks.shape[:-1], 8, 16))
    scale = Scales(_halves(blocks, 0), _rows(steps))
    return BlockWeight(_rows(codes.reshape(*blocks.shape[:-1], SUPER_BLOCK)), 4, 32, scale, table=IQ4_VALUES)


def _mxfp4(blocks: Bytes) -> BlockWeight:
    return mxfp4_weight(_rows(_nibbles(blocks[..., 1:])), _rows(blocks[..., :1]))


Q = GGMLQuantizationType
READERS: dict[GGMLQuantizationType, tuple[int, Callable[[Bytes], BlockWeight]]] = {  # bytes of a block, reader
    Q.Q4_0: (18, _q4_0),
    Q.Q4_1: (20, _q4_1),
    Q.Q5_0: (22, _q5_0),
    Q.Q5_1: (24, _q5_1),
    Q.Q8_0: (34, _q8_0),
    Q.Q2_K: (84, _q2_k),
    Q.Q3_K: (110, _q3_k),
    Q.Q4_K: (144, _q4_k),
    Q.Q5_K: (176, _q5_k),
    Q.Q6_K: (210, _q6_k),
    Q.IQ4_NL: (18, _iq4_nl),
    Q.IQ4_XS: (136, _iq4_xs),
    Q.MXFP4: (17, _mxfp4),
}
