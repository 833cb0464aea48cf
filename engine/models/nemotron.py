"""Nemotron 3 and 4, Minitron (arXiv 2402.16819): LayerNorm by 1 + w, heads rotated in part, an MLP without a gate whose
activation is the square of ReLU (arXiv 2109.08668). Arcee (AFM 4.5B) is Llama with that MLP; Jais 2 has LayerNorm, too.
"""

from typing import Any

from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names

UNGATED = Names(up=("up_proj",))


class NemotronFields(HfConfig, kw_only=True):
    hidden_act: str | None = "relu2"
    partial_rotary_factor: float | None = 0.5

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="norm_eps")


class ArceeFields(HfConfig, kw_only=True):
    hidden_act: str | None = "relu2"
    rms_norm_eps: float = 1e-5


class Jais2Fields(ArceeFields, kw_only=True):
    attention_bias: bool = True
    mlp_bias: bool = True

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="layer_norm_eps")


def nemotron(hf: NemotronFields) -> ModelConfig:
    return _ungated(hf, norm="layer", norm_bias=True, norm_offset=1.0)


def arcee(hf: ArceeFields) -> ModelConfig:
    return _ungated(hf)


def jais2(hf: Jais2Fields) -> ModelConfig:
    return _ungated(hf, norm="layer", norm_bias=True)


def _ungated(hf: HfConfig, **special: Any) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        names=UNGATED,
        gated_mlp=False,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        **special,
    )
