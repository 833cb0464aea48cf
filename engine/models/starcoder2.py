"""StarCoder 2 (arXiv 2402.19173): LayerNorm, GELU without a gate, biases everywhere, a window."""

from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names


class StarCoder2Fields(HfConfig, kw_only=True):
    use_bias: bool = True
    hidden_act: str | None = "gelu_pytorch_tanh"

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="norm_epsilon")


def starcoder2(hf: StarCoder2Fields) -> ModelConfig:
    return base_config(
        hf,
        tied=True,
        layers=same_layers(hf, hf.sliding_window or 0),
        names=Names(up=("c_fc",), down="c_proj"),
        gated_mlp=False,
        norm="layer",
        norm_bias=True,
        qkv_bias=hf.use_bias,
        output_bias=hf.use_bias,
        mlp_bias=hf.use_bias,
    )
