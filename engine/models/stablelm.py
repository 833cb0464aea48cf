"""StableLM (Stability AI, arXiv 2402.17834): Llama with LayerNorm and heads rotated in part; StableLM 2 12B has
attention and MLP side by side, and LayerNorm of each head of Q and K.
"""

from .config import Fields, HfConfig, ModelConfig, base_config, renamed, same_layers
from .names import Names


class StableLmFields(HfConfig, kw_only=True):
    partial_rotary_factor: float | None = 0.25
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="layer_norm_eps")


def stablelm(hf: StableLmFields) -> ModelConfig:
    return base_config(
        hf,
        layers=same_layers(hf),
        names=Names(
            mlp_norm="" if hf.use_parallel_residual else "post_attention_layernorm",
            qk_norm=("q_layernorm.norms", "k_layernorm.norms"),
        ),
        qk_norm="heads" if hf.qk_layernorm else None,
        qk_norm_kind="layer",
        norm="layer",
        norm_bias=True,
        parallel_residual=hf.use_parallel_residual,
        qkv_bias=hf.use_qkv_bias,
    )
