"""Seed-OSS (ByteDance, 2025): Llama with biases on Q, K and V, and one on the output only where config.json says so."""

from .config import HfConfig, ModelConfig, base_config, same_layers


class SeedOssFields(HfConfig, kw_only=True):
    attention_bias: bool = True
    attention_out_bias: bool = False


def seed_oss(hf: SeedOssFields) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_out_bias,
        mlp_bias=hf.mlp_bias,
    )
