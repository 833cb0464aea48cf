"""SmolLM3 (Hugging Face, 2025): Llama with every fourth layer without rotation (arXiv 2501.18795)."""

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config
from .rope_config import NO_ROPE


class SmolLm3Fields(HfConfig, kw_only=True):
    no_rope_layers: list[int] | None = None  # 0: without
    no_rope_layer_interval: int = 4


def smollm3(hf: SmolLm3Fields) -> ModelConfig:
    layers, interval = range(hf.num_hidden_layers), hf.no_rope_layer_interval
    rotated = hf.no_rope_layers or [int((i + 1) % interval != 0) for i in layers]
    window = hf.sliding_window if hf.use_sliding_window and hf.sliding_window else 0
    kinds = hf.layer_types or ["full_attention" if rotated[i] else "sliding_attention" for i in layers]
    rope = rope_config(hf)
    return base_config(
        hf,
        tied=True,
        layers=tuple(
            LayerConfig(rope if rotated[i] else NO_ROPE, window if kinds[i] == "sliding_attention" else 0)
            for i in layers
        ),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
    )
