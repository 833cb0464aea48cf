"""Qwen2 (arXiv 2407.10671): Llama with biases on Q, K and V. Qwen3 (arXiv 2505.09388): a QK-norm instead."""

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config


def qwen2(hf: HfConfig) -> ModelConfig:
    return base_config(hf, layers=upper_windows(hf), qkv_bias=True)


def qwen3(hf: HfConfig) -> ModelConfig:
    return base_config(
        hf, layers=upper_windows(hf), qk_norm="head", qkv_bias=hf.attention_bias, output_bias=hf.attention_bias
    )


def upper_windows(hf: HfConfig) -> tuple[LayerConfig, ...]:
    """The upper layers may have a window."""
    window = hf.sliding_window if hf.use_sliding_window and hf.sliding_window else 0
    first = hf.num_hidden_layers if hf.max_window_layers is None else hf.max_window_layers
    rope = rope_config(hf)
    if hf.layer_types is not None:
        return tuple(LayerConfig(rope, window if kind == "sliding_attention" else 0) for kind in hf.layer_types)
    return tuple(LayerConfig(rope, window if index >= first else 0) for index in range(hf.num_hidden_layers))
