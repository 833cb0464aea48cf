"""Llama 4 (Meta, 2025), its text: experts that weigh what enters them, and a shared one; heads normalised after the
rotation, which is interleaved; every fourth layer without either.

Its rotated layers attend within chunks of 8192 tokens; the others multiply queries by a factor that is 1 for the first
8191 and grows from there. No kernel here does either, so a sequence ends there: up to there it is exact.
"""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import LayerConfig, ModelConfig, base_config, rope_config
from .experts_config import ExpertsFields, read_experts, with_experts
from .names import Names
from .rope_config import NO_ROPE


class Llama4Fields(ExpertsFields, kw_only=True):
    intermediate_size_mlp: int = 16384
    rms_norm_eps: float = 1e-5
    moe_layers: list[int] | None = None
    interleave_moe_layer_step: int = 1
    use_qk_norm: bool = True
    no_rope_layers: list[int] | None = None  # 0: without
    no_rope_layer_interval: int = 4
    attention_chunk_size: int | None = 8192
    attn_temperature_tuning: bool | int = True
    floor_scale: int = 8192


def llama4(hf: Llama4Fields) -> ModelConfig:
    layers, interval, step = range(hf.num_hidden_layers), hf.no_rope_layer_interval, hf.interleave_moe_layer_step
    if interval < 1 or step < 1:
        raise ModelError(f"no_rope_layer_interval is {interval}, interleave_moe_layer_step {step}")
    rotated = hf.no_rope_layers or [int((index + 1) % interval != 0) for index in layers]
    rope = replace(rope_config(hf), interleaved=True)
    config = base_config(
        hf,
        intermediate_size=hf.intermediate_size_mlp,
        layers=tuple(LayerConfig(rope if is_rotated else NO_ROPE) for is_rotated in rotated[: len(layers)]),
        names=Names(mlp="feed_forward"),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        qk_norm="head" if hf.use_qk_norm else None,
        qk_norm_after=True,
        qk_norm_weight=False,
    )
    experts = replace(
        read_experts(hf, hf.intermediate_size, renormalise=False),
        scoring="sigmoid",
        weighs_input=True,
        transposed=True,
        shared_width=hf.intermediate_size,
        module="feed_forward",
        router="router",
        shared="feed_forward.shared_expert",
    )
    mixtures = range(step - 1, hf.num_hidden_layers, step) if hf.moe_layers is None else hf.moe_layers
    dense = [index for index in layers if index not in mixtures]
    return with_experts(_ended(config, hf), replace(hf, mlp_only_layers=dense), experts)


def _ended(config: ModelConfig, hf: Llama4Fields) -> ModelConfig:
    """Up to where chunks and factors would begin to count."""
    ends = [config.max_positions]
    if hf.attention_chunk_size:
        ends.append(hf.attention_chunk_size)
    if hf.attn_temperature_tuning:
        ends.append(hf.floor_scale - 1)
    if min(ends) == config.max_positions:
        return config
    note = (
        f"served up to {min(ends)} tokens, not {config.max_positions}: from there on some layers attend within chunks "
        "and others scale queries, which no kernel here does"
    )
    return replace(config, max_positions=min(ends), notes=(*config.notes, note))
