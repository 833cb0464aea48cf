"""Phi-1.5 and Phi-2 (arXiv 2309.05463): attention and MLP side by side, LayerNorm, GELU without a gate, biases in all
linears, the head included, and heads rotated in part.
"""

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names

NAMES = Names(norm="model.final_layernorm", mlp_norm="", output="dense", up=("fc1",), down="fc2")


class PhiFields(HfConfig, kw_only=True):
    partial_rotary_factor: float | None = 0.5
    hidden_act: str | None = "gelu_new"
    qk_layernorm: bool = False

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="layer_norm_eps")


def phi(hf: PhiFields) -> ModelConfig:
    if hf.qk_layernorm:
        raise ModelError("qk_layernorm: no released Phi has it, and no kernel here")
    return base_config(
        hf,
        layers=same_layers(hf),
        names=NAMES,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        parallel_residual=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )
