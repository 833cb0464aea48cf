"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU without a gate, weights stored as [in, out].
StarCoder and SantaCoder (GPTBigCode, arXiv 2305.06161): the same with one KV head, and weights as everywhere.
"""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed
from .names import Names
from .rope_config import NO_ROPE

NAMES = Names(
    embedding="transformer.wte",
    positions="transformer.wpe",
    layers="transformer.h",
    norm="transformer.ln_f",
    attention_norm="ln_1",
    attention="attn",
    qkv=("c_attn",),
    output="c_proj",
    mlp_norm="ln_2",
    up=("c_fc",),
    down="c_proj",
)
# The first checkpoints were saved without the head.
SPELLINGS = tuple((f"{name}.", f"transformer.{name}.") for name in ("wte", "wpe", "h", "ln_f"))


def named_as_gpt2(said: Fields) -> Fields:
    """Fields of config.json by the names that others have for them; an MLP is 4 times as wide unless said."""
    fields = renamed(
        said, hidden_size="n_embd", num_hidden_layers="n_layer", num_attention_heads="n_head",
        intermediate_size="n_inner", max_position_embeddings="n_positions", hidden_act="activation_function",
        rms_norm_eps="layer_norm_epsilon",
    )  # fmt: skip
    return {"intermediate_size": 4 * fields.get("hidden_size", 0), **fields}


class Gpt2Fields(HfConfig, kw_only=True):
    hidden_act: str | None = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    multi_query: bool = True  # GPTBigCode

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return named_as_gpt2(said)


def gpt2(hf: Gpt2Fields) -> ModelConfig:
    return replace(_gpt2(hf), transposed=("c_attn", "c_proj", "c_fc"), spellings=SPELLINGS)


def gpt_bigcode(hf: Gpt2Fields) -> ModelConfig:
    config = _gpt2(hf)
    return replace(config, num_kv_heads=1) if hf.multi_query else replace(config, qkv_grouped=True)


def _gpt2(hf: Gpt2Fields) -> ModelConfig:
    if hf.scale_attn_by_inverse_layer_idx or hf.add_cross_attention:
        raise ModelError("scale_attn_by_inverse_layer_idx and add_cross_attention are not supported")
    return base_config(
        hf,
        tied=True,
        layers=(LayerConfig(NO_ROPE),) * hf.num_hidden_layers,
        names=NAMES,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=None if hf.scale_attn_weights else 1.0,
    )
