"""The table of rotary angles: computed once, read by the RoPE kernel."""

import math

import torch
import torch.nn.functional as F

from .rope_config import RopeConfig


def inverse_frequencies(rope: RopeConfig, rotated: int) -> torch.Tensor:
    """Radians per position of each pair of the ``rotated`` dims, [rotated / 2] fp32.

    Su et al. 2021 (arXiv 2104.09864); ``linear`` is Chen et al. 2023 (arXiv 2306.15595); ``llama3`` is the rule of the
    Llama 3.1 release: long wavelengths are divided by ``factor``, short ones kept, those between blended; ``yarn`` is
    the same idea with a ramp over the dims, Peng et al. 2023 (arXiv 2309.00071); ``longrope`` has a divisor for each
    frequency, Ding et al. 2024 (arXiv 2402.13753). ``dynamic`` changes nothing within the original context.
    """
    frequencies = 1.0 / rope.theta ** (torch.arange(0, rotated, 2, dtype=torch.int64).float() / rotated)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_positions * frequencies / (2 * math.pi)  # over the original context
        kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        return _blend(frequencies, kept.clamp(0.0, 1.0), rope.factor)
    if rope.kind == "yarn":
        return _blend(frequencies, _yarn_kept(rope, rotated), rope.factor)
    if rope.kind == "longrope":
        return frequencies / torch.tensor(rope.divisors)
    return frequencies


def cos_sin_table(rope: RopeConfig, head_dim: int, max_positions: int) -> torch.Tensor:
    """Cosines of the half dims, then sines, for each position: [max_positions, head_dim] fp32.

    Pairs that are not rotated come last, with cosine 1 and sine 0: see ``head_order``.
    """
    angles = torch.arange(max_positions).float()[:, None] * inverse_frequencies(rope, int(head_dim * rope.partial))
    still = (0, head_dim // 2 - angles.shape[1])
    cos, sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
    return torch.cat([F.pad(cos, still, value=1.0), F.pad(sin, still)], dim=1)


def head_order(rope: RopeConfig, head_dim: int) -> torch.Tensor | None:
    """In which order to take the dims of a head of Q or K, int64 [head_dim]; None: as they are.

    The kernel rotates dim i of a head with dim i + head_dim / 2. A model that rotates the first ``rotated`` dims only
    pairs i with i + rotated / 2, and one whose pairs are interleaved 2 i with 2 i + 1. Moved together here, the rest
    as pairs that stay: Q and K alike, so that their products are the same.
    """
    rotated = int(head_dim * rope.partial)
    if rotated == 0 or (rotated == head_dim and not rope.interleaved):
        return None
    half, still = rotated // 2, (head_dim - rotated) // 2
    firsts = range(0, rotated, 2) if rope.interleaved else range(half)
    seconds = range(1, rotated, 2) if rope.interleaved else range(half, rotated)
    parts = [firsts, range(rotated, rotated + still), seconds, range(rotated + still, head_dim)]
    return torch.tensor([dim for part in parts for dim in part])


def qkv_order(rope: RopeConfig, head_dim: int, q_heads: int, kv_heads: int, grouped: bool) -> torch.Tensor | None:
    """In which order to take the outputs of a QKV projection, int64 [outputs]; None: as they are.

    ``grouped``: each KV head's queries, key and value lie together.
    """
    dims = head_order(rope, head_dim)
    if dims is None and not grouped:
        return None
    heads = torch.arange(q_heads + 2 * kv_heads)
    if grouped:
        of_group = heads.view(kv_heads, -1)
        heads = torch.cat([of_group[:, :-2].flatten(), of_group[:, -2], of_group[:, -1]])
    as_stored = torch.arange(head_dim)
    qk, v = heads[:-kv_heads, None] * head_dim, heads[-kv_heads:, None] * head_dim
    return torch.cat([(qk + (as_stored if dims is None else dims)).flatten(), (v + as_stored).flatten()])


def _blend(frequencies: torch.Tensor, kept: torch.Tensor, factor: float) -> torch.Tensor:
    """``kept`` of each frequency as it is, the rest divided by ``factor``."""
    return frequencies * kept + frequencies / factor * (1.0 - kept)


def _yarn_kept(rope: RopeConfig, rotated: int) -> torch.Tensor:
    """1 for the dims that turn ``beta_fast`` times or more over the original context, 0 from ``beta_slow`` down."""

    def dim_of(turns: float) -> float:
        return rotated * math.log(rope.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dim_of(rope.beta_fast), dim_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    ramp = (torch.arange(rotated // 2).float() - low) / max(high - low, 0.001)
    return 1.0 - ramp.clamp(0.0, 1.0)
