"""Gemma (arXiv 2403.08295): GELU, (1 + w), scaled embedding. Gemma 2 (arXiv 2408.00118): softcaps, norms on both sides,
a window in every other layer.
"""

from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config, same_layers
from .names import Names

SANDWICH = Names(
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)


def gemma(hf: HfConfig) -> ModelConfig:
    # The first checkpoints say gelu, and were trained with the tanh form: transformers takes that for them, too.
    hf.hidden_activation = "gelu_pytorch_tanh"
    return base_config(
        hf,
        tied=True,
        layers=same_layers(hf),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        norm_offset=1.0,
        embedding_scale=hf.hidden_size**0.5,
        rounds_embedding_scale=True,
    )


def gemma2(hf: HfConfig) -> ModelConfig:
    kinds = hf.layer_types or ["full_attention" if i % 2 else "sliding_attention" for i in range(hf.num_hidden_layers)]
    rope, window = rope_config(hf), 4096 if hf.sliding_window is None else hf.sliding_window
    return base_config(
        hf,
        tied=True,
        layers=tuple(LayerConfig(rope, window if kind == "sliding_attention" else 0) for kind in kinds),
        names=SANDWICH,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        norm_offset=1.0,
        embedding_scale=hf.hidden_size**0.5,
        rounds_embedding_scale=True,
        attention_scale=hf.query_pre_attn_scalar**-0.5,
        attention_softcap=hf.attn_logit_softcapping or 0.0,
        logit_softcap=hf.final_logit_softcapping or 0.0,
    )
