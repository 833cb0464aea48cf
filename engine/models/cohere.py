"""Command R (Cohere): LayerNorm without a bias, attention and MLP side by side, interleaved rotation, scaled logits;
R+: LayerNorm of each head of Q and K.
Command R7B and A (Cohere 2, arXiv 2504.00698): windows, and no rotation in the layers without one.
"""

from msgspec.structs import replace

from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed, rope_config
from .names import Names
from .rope_config import NO_ROPE


class CohereFields(HfConfig, kw_only=True):
    logit_scale: float = 0.0625
    use_qk_norm: bool = False

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, rms_norm_eps="layer_norm_eps")


def cohere(hf: CohereFields) -> ModelConfig:
    rope = replace(rope_config(hf), interleaved=True)
    return _cohere(hf, (LayerConfig(rope),) * hf.num_hidden_layers)


def cohere2(hf: CohereFields) -> ModelConfig:
    rope = replace(rope_config(hf), interleaved=True)
    windowed, full = LayerConfig(rope, hf.sliding_window or 0), LayerConfig(NO_ROPE)
    pattern = 4 if hf.sliding_window_pattern is None else hf.sliding_window_pattern
    kinds = hf.layer_types or [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(hf.num_hidden_layers)
    ]
    return _cohere(hf, tuple(windowed if kind == "sliding_attention" else full for kind in kinds))


def _cohere(hf: CohereFields, layers: tuple[LayerConfig, ...]) -> ModelConfig:
    return base_config(
        hf,
        tied=True,
        layers=layers,
        names=Names(mlp_norm=""),
        norm="layer",
        parallel_residual=True,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        logit_scale=hf.logit_scale,
        qk_norm="heads" if hf.use_qk_norm else None,
        qk_norm_kind="layer",
    )
