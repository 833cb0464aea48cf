"""Granite (IBM): Llama with multipliers, after μP (arXiv 2203.03466). Granite 4 without Mamba's layers is the same
under the names of a hybrid's, in some models without rotation. Its mixtures (GraniteMoe) weigh experts by the softmax
of those that are chosen; some have a shared one, under the hybrid's name.

What attention and MLP return is multiplied by ``residual_multiplier`` before it is added to the stream. Here the stream
is divided by it instead, once, at the embedding: a norm takes the factor out again, if its eps is divided by the
square. So no weight is rounded again, and a layer is Llama's.
"""

from typing import Any

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Fields, LayerConfig, ModelConfig, base_config, renamed, same_layers
from .experts_config import ExpertsFields, read_experts, with_experts
from .names import Names
from .rope_config import NO_ROPE

HYBRID = Names(mlp="shared_mlp", up=("input_linear",), down="output_linear")


class GraniteFields(ExpertsFields, kw_only=True):
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


class GraniteHybridFields(GraniteFields, kw_only=True):
    num_local_experts: int | None = 8
    position_embedding_type: str | None = None

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        fields = renamed(said, layer_types="layers_block_type")
        return {**fields, "intermediate_size": fields.get("shared_intermediate_size", 1024)}


class GraniteMoeFields(GraniteFields, kw_only=True):
    shared_intermediate_size: int = 0


def granite(hf: GraniteFields) -> ModelConfig:
    return _granite(hf, layers=same_layers(hf), mlp_bias=hf.mlp_bias)


def granite_moe(hf: GraniteMoeFields) -> ModelConfig:
    experts = replace(
        read_experts(hf, hf.intermediate_size, renormalise=True),
        module="block_sparse_moe",
        router="router.layer",
        shared_width=hf.shared_intermediate_size,
        shared=HYBRID.mlp,
    )
    return with_experts(_granite(hf, layers=same_layers(hf), names=HYBRID), hf, experts)


def granite_hybrid(hf: GraniteHybridFields) -> ModelConfig:
    if hf.num_local_experts or any(kind == "mamba" for kind in hf.layer_types or ["mamba"]):
        raise ModelError("of Granite 4 those without Mamba's layers and experts are supported (micro, 1B, 350M), no H")
    layers = same_layers(hf) if hf.position_embedding_type == "rope" else (LayerConfig(NO_ROPE),) * hf.num_hidden_layers
    return _granite(hf, layers=layers, names=HYBRID)


def _granite(hf: GraniteFields, **special: Any) -> ModelConfig:
    return base_config(
        hf,
        **special,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        norm_eps=hf.rms_norm_eps / hf.residual_multiplier**2,
        embedding_scale=hf.embedding_multiplier / hf.residual_multiplier,
        attention_scale=hf.attention_multiplier,
        logit_scale=1.0 / hf.logits_scaling,
    )
