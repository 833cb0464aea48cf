"""Block-quantised weights made up, in the forms that files have: for the audit, the dry run and the GPU command."""

from typing import NamedTuple

import torch

from ...kernels.block_weight import E2M1_DOUBLED, BlockWeight, Scales

SUPER_BLOCK = 256  # of GGUF's K types


class BlockKind(NamedTuple):
    """What a format keeps of a group."""

    bits: int
    group: int
    stepped: bool = False  # scales (and minima) are steps of a super-block's
    zero: int | None = 0  # of all groups; None: each has its own
    minimum: bool = False
    table: tuple[int, ...] | None = None
    base: torch.dtype = torch.float16


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
BLOCK_KINDS = {
    "Q4_0": BlockKind(4, 32, zero=8),
    "Q8_0": BlockKind(8, 32, zero=128),
    "Q2_K": BlockKind(2, 16, stepped=True, minimum=True),
    "Q3_K": BlockKind(3, 16, stepped=True, zero=4),
    "Q4_K": BlockKind(4, 32, stepped=True, minimum=True),
    "Q5_K": BlockKind(5, 32, stepped=True, minimum=True),
    "Q6_K": BlockKind(6, 16, stepped=True, zero=32),
    "IQ4_XS": BlockKind(4, 32, stepped=True, table=_IQ4),
    "MXFP4": BlockKind(4, 32, table=E2M1_DOUBLED, base=torch.bfloat16),
    "GPTQ": BlockKind(4, 128, zero=None),
    "GPTQ, 8 bits": BlockKind(8, 128, zero=None),
}


def made_up_blocks(name: str, outputs: int, inputs: int, device: torch.device) -> BlockWeight:
    """A random weight [outputs, inputs] on the device, about as large as a real one."""
    kind = BLOCK_KINDS[name]
    most = 1 << kind.bits

    def scales(largest: float) -> Scales:
        columns = inputs // (SUPER_BLOCK if kind.stepped else kind.group)
        base = torch.rand((outputs, columns), device=device) * largest
        if not kind.stepped:
            return Scales(base.to(kind.base))
        shape = (outputs, inputs // kind.group)
        return Scales((base / 16).half(), torch.randint(0, 16, shape, dtype=torch.int8, device=device))

    zero: torch.Tensor | int | None = kind.zero
    if zero is None:
        zero = torch.randint(0, most, (outputs, inputs // kind.group), dtype=torch.int16, device=device)
    codes = torch.randint(0, most, (outputs, inputs), dtype=torch.uint8, device=device)
    scale = scales(0.1 / most)
    return BlockWeight(codes, kind.bits, kind.group, scale, zero, scales(0.05) if kind.minimum else None, kind.table)
