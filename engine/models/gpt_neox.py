"""GPT-NeoX (arXiv 2204.06745), Pythia (arXiv 2304.01373): attention and MLP side by side, with a LayerNorm each, GELU
without a gate, one QKV matrix by heads, heads rotated in part.
"""

from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names

NAMES = Names(
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    norm="gpt_neox.final_layer_norm",
    head="embed_out",
    attention="attention",
    qkv=("query_key_value",),
    output="dense",
    up=("dense_h_to_4h",),
    down="dense_4h_to_h",
)


class GptNeoxFields(HfConfig, kw_only=True):
    attention_bias: bool = True
    partial_rotary_factor: float | None = 0.25
    hidden_act: str | None = "gelu"
    use_parallel_residual: bool = True

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(
            said, rms_norm_eps="layer_norm_eps", rope_theta="rotary_emb_base", partial_rotary_factor="rotary_pct"
        )


def gpt_neox(hf: GptNeoxFields) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        names=NAMES,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        parallel_residual=hf.use_parallel_residual,
        qkv_grouped=True,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        mlp_bias=True,
    )
