"""Llama (arXiv 2302.13971), and Mistral (arXiv 2310.06825), which adds a window."""

from .config import HfConfig, ModelConfig, base_config, same_layers


def llama(hf: HfConfig) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
    )


def mistral(hf: HfConfig) -> ModelConfig:
    return base_config(hf, layers=same_layers(hf, hf.sliding_window or 0))
