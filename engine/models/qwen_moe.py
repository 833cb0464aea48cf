"""Qwen2-MoE: Qwen2 with experts, and one that every row goes to. Qwen3-MoE (arXiv 2505.09388): Qwen3 with experts."""

from msgspec.structs import replace

from .config import LayerConfig, ModelConfig, base_config, rope_config, same_layers
from .experts_config import ExpertsFields, read_experts, with_experts


class Qwen2MoeFields(ExpertsFields, kw_only=True):
    qkv_bias: bool = True


def qwen2_moe(hf: Qwen2MoeFields) -> ModelConfig:
    experts = read_experts(hf, hf.moe_intermediate_size, hf.norm_topk_prob)
    if hf.shared_expert_intermediate_size:
        width, gate = hf.shared_expert_intermediate_size, "mlp.shared_expert_gate"
        experts = replace(experts, shared_width=width, shared_gate=gate)
    config = base_config(hf, layers=_qwen2_layers(hf), qkv_bias=hf.qkv_bias)
    return with_experts(config, hf, experts)


def qwen3_moe(hf: ExpertsFields) -> ModelConfig:
    window = hf.sliding_window if hf.use_sliding_window and hf.sliding_window else 0
    config = base_config(
        hf,
        layers=same_layers(hf, window),
        qk_norm="head",
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )
    return with_experts(config, hf, read_experts(hf, hf.moe_intermediate_size, hf.norm_topk_prob))


def _qwen2_layers(hf: ExpertsFields) -> tuple[LayerConfig, ...]:
    """Where windows are used, unlike Qwen2 itself, every other layer has one, and the upper ones have none."""
    window = hf.sliding_window if hf.use_sliding_window and hf.sliding_window else 0
    most = hf.num_hidden_layers if hf.max_window_layers is None else hf.max_window_layers
    kinds = hf.layer_types or [
        "sliding_attention" if index % 2 == 0 and index < most else "full_attention"
        for index in range(hf.num_hidden_layers)
    ]
    rope = rope_config(hf)
    return tuple(LayerConfig(rope, window if kind == "sliding_attention" else 0) for kind in kinds)
