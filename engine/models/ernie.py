"""ERNIE 4.5, dense (Baidu, 2025), and Helium (Kyutai, 2025): Llama with an interleaved rotation."""

from msgspec.structs import replace

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config


class ErnieFields(HfConfig, kw_only=True):
    use_bias: bool = False


def ernie(hf: ErnieFields) -> ModelConfig:
    return _interleaved(hf, qkv_bias=hf.use_bias, output_bias=hf.use_bias, mlp_bias=hf.use_bias, tied=True)


def helium(hf: HfConfig) -> ModelConfig:
    return _interleaved(hf, qkv_bias=hf.attention_bias, mlp_bias=hf.mlp_bias)


def _interleaved(
    hf: HfConfig, *, qkv_bias: bool, mlp_bias: bool, output_bias: bool = False, tied: bool = False
) -> ModelConfig:
    layer = LayerConfig(replace(rope_config(hf), interleaved=True))
    return base_config(
        hf,
        tied=tied,
        layers=(layer,) * hf.num_hidden_layers,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
    )
