"""Rotary embedding as config.json describes it, and how it is stretched to longer contexts."""

import math
from typing import Literal, cast, get_args

from msgspec import Struct

from ..checkpoint.errors import ModelError

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope", "dynamic"]


class RopeConfig(Struct, frozen=True, kw_only=True):
    """What the table of angles is computed from. The fields below ``factor`` are read by the kind they name only."""

    theta: float = 10000.0
    kind: RopeKind = "default"
    partial: float = 1.0  # share of a head's dims that is rotated, the first ones
    interleaved: bool = False  # pairs are neighbours, not the two halves
    factor: float = 1.0
    attention_factor: float = 1.0  # times cosines and sines, so its square times the logits of attention
    original_positions: int = 8192  # tokens; llama3, yarn, longrope, dynamic: context before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn: turns over the original context from which on a frequency is kept
    beta_slow: float = 1.0  # yarn: and up to which it is divided by ``factor``
    truncate: bool = True  # yarn: the bounds are whole dims
    divisors: tuple[float, ...] = ()  # longrope: of each frequency, [rotated dims / 2]


NO_ROPE = RopeConfig(partial=0.0)  # of layers that know no positions, or have learned ones


class RopeFields(Struct, kw_only=True):
    """The fields of rope_scaling or rope_parameters, under their Hugging Face names."""

    rope_type: str | None = None
    type: str | None = None  # before there was rope_type
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    factor: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


def read_rope(fields: RopeFields, max_position_embeddings: int) -> RopeConfig:
    """Fill in what config.json leaves to be derived. Raises ModelError for a kind that is not known."""
    kind = fields.rope_type or fields.type or "default"
    if fields.short_factor and kind in ("su", "yarn"):  # names of longrope in the first Phi-3 checkpoints
        kind = "longrope"
    if kind == "mrope":  # three positions for each token, which are the same where it is text
        kind = "default"
    if kind not in get_args(RopeKind):
        raise ModelError(f"RoPE scaling '{kind}' is not supported (known: {', '.join(get_args(RopeKind))})")
    original = fields.original_max_position_embeddings or (8192 if kind == "llama3" else max_position_embeddings)
    factor = fields.factor or (max_position_embeddings / original if kind in ("yarn", "longrope") else 1.0)
    return RopeConfig(
        theta=fields.rope_theta or 10000.0,
        kind=cast(RopeKind, kind),
        partial=fields.partial_rotary_factor or 1.0,
        factor=factor,
        attention_factor=_attention_factor(kind, fields, factor, original),
        original_positions=original,
        low_freq_factor=fields.low_freq_factor,
        high_freq_factor=fields.high_freq_factor,
        beta_fast=fields.beta_fast or 32.0,
        beta_slow=fields.beta_slow or 1.0,
        truncate=fields.truncate,
        divisors=fields.short_factor,
    )


def _attention_factor(kind: str, fields: RopeFields, factor: float, original: int) -> float:
    """As given, or by the papers' rules: YaRN's equation 22, LongRoPE's section 3.2."""
    if kind not in ("yarn", "longrope"):
        return 1.0
    if fields.attention_factor is not None:
        return fields.attention_factor
    if factor <= 1.0:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original))
    if fields.mscale and fields.mscale_all_dim:
        return (0.1 * fields.mscale * math.log(factor) + 1) / (0.1 * fields.mscale_all_dim * math.log(factor) + 1)
    return 0.1 * math.log(factor) + 1
