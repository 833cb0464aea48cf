"""Apertus (Swiss AI, 2025): Llama with a QK-norm and an MLP without a gate, whose activation, xIELU, has two numbers of
its own in each layer (arXiv 2411.13010).
"""

from .config import HfConfig, ModelConfig, base_config, same_layers
from .names import Names

NAMES = Names(attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm", up=("up_proj",))


class ApertusFields(HfConfig, kw_only=True):
    hidden_act: str | None = "xielu"
    rms_norm_eps: float = 1e-5


def apertus(hf: ApertusFields) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        names=NAMES,
        gated_mlp=False,
        qk_norm="head",
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )
