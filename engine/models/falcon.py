"""Falcon (arXiv 2311.16867): attention and MLP side by side, LayerNorm, GELU without a gate. 7B has one KV head and one
norm a layer, 40B and 180B have groups in one QKV matrix and a norm for each side.
"""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names

NAMES = Names(
    embedding="transformer.word_embeddings",
    layers="transformer.h",
    norm="transformer.ln_f",
    attention="self_attention",
    qkv=("query_key_value",),
    output="dense",
    up=("dense_h_to_4h",),
    down="dense_4h_to_h",
)


class FalconFields(HfConfig, kw_only=True):
    hidden_act: str | None = "gelu"
    alibi: bool = False
    bias: bool = False
    multi_query: bool = True
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None
    parallel_attn: bool = True

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        fields = renamed(
            said, num_hidden_layers="n_layer", num_attention_heads="n_head", num_kv_heads="n_head_kv",
            intermediate_size="ffn_hidden_size", hidden_act="activation", rms_norm_eps="layer_norm_epsilon",
        )  # fmt: skip
        fields = renamed(fields, num_key_value_heads="num_kv_heads")
        return {"intermediate_size": 4 * fields.get("hidden_size", 0), **fields}


def falcon(hf: FalconFields) -> ModelConfig:
    if hf.alibi:
        raise ModelError("alibi: attention here has no bias by distance. Falcon 7B, 40B and 180B rotate instead")
    grouped = hf.new_decoder_architecture or not hf.multi_query
    if not grouped:
        hf.num_key_value_heads = 1
    names = NAMES
    if hf.new_decoder_architecture and (hf.num_ln_in_parallel_attn or 2) == 2:
        names = replace(NAMES, attention_norm="ln_attn", mlp_norm="ln_mlp")
    elif hf.new_decoder_architecture or hf.parallel_attn:
        names = replace(NAMES, mlp_norm="")
    return base_config(
        hf,
        tied=True,
        layers=same_layers(hf),
        names=names,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        parallel_residual=hf.new_decoder_architecture or hf.parallel_attn,
        qkv_grouped=grouped,
        qkv_bias=hf.bias,
        output_bias=hf.bias,
        mlp_bias=hf.bias,
    )
