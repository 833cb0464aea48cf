"""GLM-4 (arXiv 2406.12793): half of each head rotated, in interleaved pairs. GLM-4-0414 has norms on both sides."""

from msgspec.structs import replace

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config
from .names import Names


class GlmFields(HfConfig, kw_only=True):
    attention_bias: bool = True
    partial_rotary_factor: float | None = 0.5


def glm(hf: GlmFields) -> ModelConfig:
    return _glm(hf, Names(up=("gate_up_proj",)))


def glm4(hf: GlmFields) -> ModelConfig:
    names = Names(
        up=("gate_up_proj",), attention_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"
    )
    return _glm(hf, names)


def _glm(hf: GlmFields, names: Names) -> ModelConfig:
    layer = LayerConfig(replace(rope_config(hf), interleaved=True))
    return base_config(hf, layers=(layer,) * hf.num_hidden_layers, names=names, qkv_bias=hf.attention_bias)
