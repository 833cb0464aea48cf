"""Llama (arXiv 2302.13971), and Mistral (arXiv 2310.06825), which adds a window. InternLM 3 is a Llama by other names.

Ministral 3 multiplies queries beyond its original context by a factor that grows with the position, which no kernel
here does: a sequence ends there, and up to there the factor is 1.
"""

from msgspec.structs import replace

from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed, rope_config, same_layers


class InternLm3Fields(HfConfig, kw_only=True):
    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, attention_bias="qkv_bias", mlp_bias="bias")


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


def internlm3(hf: InternLm3Fields) -> ModelConfig:
    return llama(hf)


def ministral(hf: HfConfig) -> ModelConfig:
    """Ministral 8B: a window in some layers."""
    rope, window = rope_config(hf), hf.sliding_window or 0
    kinds = hf.layer_types or ["sliding_attention"] * hf.num_hidden_layers
    layers = tuple(LayerConfig(rope, window if kind == "sliding_attention" else 0) for kind in kinds)
    return base_config(hf, layers=layers)


def ministral3(hf: HfConfig) -> ModelConfig:
    config = mistral(hf)
    said = (hf.rope_parameters or {}) | (hf.rope_scaling or {})
    original = rope_config(hf).original_positions
    if not said.get("llama_4_scaling_beta") or original >= config.max_positions:
        return config
    note = (
        f"served up to its original context of {original} tokens, not {config.max_positions}: "
        "from there on queries are scaled, which no kernel here does"
    )
    return replace(config, max_positions=original, notes=(*config.notes, note))
