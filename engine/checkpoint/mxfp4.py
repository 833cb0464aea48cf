"""MXFP4 (OCP Microscaling Formats 1.0): 32 values of 4 bits, E2M1, share a scale of 8, E8M0.

    weight[o, i] = 2^(scale[o, i // 32] - 127) * value(code[o, i])

Here the values are doubled and the scales halved, which makes whole numbers of the values and rounds nothing: bf16 has
every power of two from 2^-133 on.
"""

import torch

from ...kernels.block_weight import E2M1_DOUBLED, BlockWeight, Scales

GROUP = 32
NO_NUMBER = 255  # the scale that is a NaN


def mxfp4_weight(codes: torch.Tensor, scales: torch.Tensor) -> BlockWeight:
    """From codes, uint8 [out, in], and scales as they are stored, uint8 [out, in / 32]."""
    exponents = scales.to(torch.int16)
    subnormal = torch.full_like(exponents, 0x20) << exponents.clamp(max=1)
    halved = torch.where(exponents < 2, subnormal, (exponents - 1) << 7).view(torch.bfloat16)
    return BlockWeight(codes, 4, GROUP, Scales(halved), table=E2M1_DOUBLED)
