"""Granite (IBM): Llama with multipliers, after μP (arXiv 2203.03466).

What attention and MLP return is multiplied by ``residual_multiplier`` before it is added to the stream. Here the stream
is divided by it instead, once, at the embedding: a norm takes the factor out again, if its eps is divided by the
square. So no weight is rounded again, and a layer is Llama's.
"""

from .config import HfConfig, ModelConfig, base_config, same_layers


class GraniteFields(HfConfig, kw_only=True):
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


def granite(hf: GraniteFields) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        norm_eps=hf.rms_norm_eps / hf.residual_multiplier**2,
        embedding_scale=hf.embedding_multiplier / hf.residual_multiplier,
        attention_scale=hf.attention_multiplier,
        logit_scale=1.0 / hf.logits_scaling,
    )
