"""Gemma 3, text (arXiv 2503.19786): windows in five layers of six, norms on both sides, (1 + w), scaled embeddings."""

from .config import HfConfig, LayerConfig, ModelConfig, RopeConfig, base_config, rope_config
from .gemma import SANDWICH


def gemma3(hf: HfConfig) -> ModelConfig:
    pattern = hf.sliding_window_pattern or 6
    kinds = hf.layer_types or [
        "full_attention" if (index + 1) % pattern == 0 else "sliding_attention" for index in range(hf.num_hidden_layers)
    ]
    parameters = hf.rope_parameters or {}
    # Layers with a window keep their own base and are not stretched.
    if "sliding_attention" in parameters:
        local = rope_config(hf, "sliding_attention")
    else:
        local = RopeConfig(theta=hf.rope_local_base_freq)
    windowed, full = LayerConfig(local, hf.sliding_window or 0), LayerConfig(rope_config(hf))
    return base_config(
        hf,
        tied=True,
        layers=tuple(windowed if kind == "sliding_attention" else full for kind in kinds),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        qk_norm="head",
        names=SANDWICH,
        norm_offset=1.0,
        embedding_scale=hf.hidden_size**0.5,
        rounds_embedding_scale=True,
        attention_scale=hf.query_pre_attn_scalar**-0.5,
        attention_softcap=hf.attn_logit_softcapping or 0.0,
        logit_softcap=hf.final_logit_softcapping or 0.0,
    )
