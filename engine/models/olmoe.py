"""OLMoE (arXiv 2409.02060): Llama with a QK-norm over all heads, and a mixture of small experts in every layer."""

from ..checkpoint.errors import ModelError
from .config import ModelConfig, base_config, same_layers
from .experts_config import ExpertsFields, read_experts, with_experts


class OlmoeFields(ExpertsFields, kw_only=True):
    clip_qkv: float | None = None


def olmoe(hf: OlmoeFields) -> ModelConfig:
    if hf.clip_qkv is not None:
        raise ModelError(f"clip_qkv {hf.clip_qkv} is not supported")  # no released checkpoint sets it
    config = base_config(
        hf,
        layers=same_layers(hf),
        qk_norm="width",
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )
    return with_experts(config, hf, read_experts(hf, hf.intermediate_size, hf.norm_topk_prob))
