"""The table of rotary angles: computed once, read by the RoPE kernel."""

import math

import torch

from .config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Radians per position of each half dim, [head_dim / 2] fp32.

    Su et al. 2021 (arXiv 2104.09864); ``linear`` is Chen et al. 2023 (arXiv 2306.15595); ``llama3`` is the rule of the
    Llama 3.1 release: long wavelengths are divided by ``factor``, short ones kept, those between blended.
    """
    frequencies = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)  # over the original context
        blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        blend = blend.clamp(0.0, 1.0)
        return frequencies * blend + frequencies / rope.factor * (1.0 - blend)
    return frequencies


def cos_sin_table(rope: RopeConfig, head_dim: int, max_positions: int) -> torch.Tensor:
    """Cosines of the half dims, then sines, for each position: [max_positions, head_dim] fp32."""
    angles = torch.arange(max_positions).float()[:, None] * inverse_frequencies(rope, head_dim)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
