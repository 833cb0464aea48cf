"""OPT (arXiv 2205.01068), and Galactica: learned positions from row 2 on, LayerNorm before, ReLU without a gate."""

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed
from .names import Names
from .rope_config import NO_ROPE

NAMES = Names(
    embedding="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    layers="model.decoder.layers",
    norm="model.decoder.final_layer_norm",
    attention_norm="self_attn_layer_norm",
    output="out_proj",
    mlp_norm="final_layer_norm",
    mlp="",
    up=("fc1",),
    down="fc2",
)
SPELLINGS = (("decoder.", "model.decoder."),)  # some were saved without the head
FIRST_POSITION = 2


class OptFields(HfConfig, kw_only=True):
    hidden_act: str | None = "relu"
    rms_norm_eps: float = 1e-5  # LayerNorm's; config.json doesn't say it
    enable_bias: bool = True
    do_layer_norm_before: bool = True
    layer_norm_elementwise_affine: bool = True
    word_embed_proj_dim: int | None = None

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, intermediate_size="ffn_dim", hidden_act="activation_function")


def opt(hf: OptFields) -> ModelConfig:
    if not hf.do_layer_norm_before or hf.word_embed_proj_dim not in (None, hf.hidden_size):
        raise ModelError("norms after the sum, or an embedding of another width (OPT-350m), are not supported")
    if not hf.layer_norm_elementwise_affine:
        raise ModelError("LayerNorm without weights is not supported")
    return base_config(
        hf,
        tied=True,
        layers=(LayerConfig(NO_ROPE),) * hf.num_hidden_layers,
        names=NAMES,
        spellings=SPELLINGS,
        first_position=FIRST_POSITION,
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=hf.enable_bias,
        output_bias=hf.enable_bias,
        mlp_bias=hf.enable_bias,
    )
