"""ERNIE 4.5, dense (Baidu, 2025), and Helium (Kyutai, 2025): Llama with an interleaved rotation."""

from typing import Any

from msgspec.structs import replace

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config


class ErnieFields(HfConfig, kw_only=True):
    use_bias: bool = False


def ernie(hf: ErnieFields) -> ModelConfig:
    return _interleaved(hf, tied=True, qkv_bias=hf.use_bias, output_bias=hf.use_bias, mlp_bias=hf.use_bias)


def helium(hf: HfConfig) -> ModelConfig:
    return _interleaved(hf, qkv_bias=hf.attention_bias, mlp_bias=hf.mlp_bias)


def _interleaved(hf: HfConfig, **special: Any) -> ModelConfig:
    layer = LayerConfig(replace(rope_config(hf), interleaved=True))
    return base_config(hf, layers=(layer,) * hf.num_hidden_layers, **special)
