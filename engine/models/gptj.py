"""GPT-J (Wang & Komatsuzaki 2021): attention and MLP side by side after one LayerNorm, GELU without a gate, interleaved
rotation of a head's first dims, biases in the MLP and the head.
"""

from msgspec.structs import replace

from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed, rope_config
from .names import Names

NAMES = Names(
    embedding="transformer.wte",
    layers="transformer.h",
    norm="transformer.ln_f",
    attention_norm="ln_1",
    attention="attn",
    output="out_proj",
    mlp_norm="",
    up=("fc_in",),
    down="fc_out",
)


class GptJFields(HfConfig, kw_only=True):
    hidden_act: str | None = "gelu_new"
    rotary_dim: int | None = 64  # of each head; None: all

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        fields = renamed(
            said, hidden_size="n_embd", num_hidden_layers="n_layer", num_attention_heads="n_head",
            intermediate_size="n_inner", max_position_embeddings="n_positions", hidden_act="activation_function",
            rms_norm_eps="layer_norm_epsilon",
        )  # fmt: skip
        return {"intermediate_size": 4 * fields.get("hidden_size", 0), **fields}


def gptj(hf: GptJFields) -> ModelConfig:
    head_dim = hf.hidden_size // hf.num_attention_heads
    partial = 1.0 if hf.rotary_dim is None else hf.rotary_dim / head_dim
    layer = LayerConfig(replace(rope_config(hf), interleaved=True, partial=partial))
    return base_config(
        hf,
        layers=(layer,) * hf.num_hidden_layers,
        names=NAMES,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        parallel_residual=True,
        mlp_bias=True,
        head_bias=True,
    )
