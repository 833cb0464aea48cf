"""GPT-J (Wang & Komatsuzaki 2021): attention and MLP side by side after one LayerNorm, GELU without a gate, interleaved
rotation of a head's first dims, biases in the MLP and the head.
"""

from msgspec.structs import replace

from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, rope_config
from .gpt2 import named_as_gpt2
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
        return named_as_gpt2(said)


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
