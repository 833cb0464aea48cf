"""Phi-3.5-MoE (arXiv 2404.14219): experts weighed by sparsemixer, LayerNorm, biases, LongRoPE as Phi-3 has it.

Its cosines and sines have a factor of their own for each set of divisors; phi3.py says why the first set serves.
"""

from typing import Any

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import LayerConfig, ModelConfig, base_config, rope_config
from .experts_config import ExpertsFields, read_experts, with_experts

SLOTS = 2  # sparsemixer is defined for


class PhimoeFields(ExpertsFields, kw_only=True):
    router_jitter_noise: float = 0.01
    lm_head_bias: bool = False


def phimoe(hf: PhimoeFields) -> ModelConfig:
    experts = read_experts(hf, hf.intermediate_size, renormalise=False)
    if experts.slots != SLOTS:
        raise ModelError(f"num_experts_per_tok is {experts.slots}, but sparsemixer chooses {SLOTS}")
    sparse = replace(
        experts,
        scoring="sparsemixer",
        tolerance=2 * hf.router_jitter_noise,
        module="block_sparse_moe",
        names=("w1", "w3", "w2"),
    )
    rope = rope_config(hf)
    said: dict[str, Any] = (hf.rope_scaling or {}) | (hf.rope_parameters or {})
    if rope.kind != "default":
        if not isinstance(factor := said.get("short_mscale"), int | float):
            raise ModelError(f"RoPE parameters: short_mscale is {factor!r}, not a number")
        rope = replace(rope, attention_factor=float(factor))
    config = base_config(
        hf,
        layers=(LayerConfig(rope, hf.sliding_window or 0),) * hf.num_hidden_layers,
        norm="layer",
        norm_bias=True,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        head_bias=hf.lm_head_bias,
    )
    return with_experts(config, hf, sparse)
