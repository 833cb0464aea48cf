"""OLMo 1 (arXiv 2402.00838): Llama with LayerNorm that has no weights.
OLMo 2 (arXiv 2501.00656): norms after attention and MLP alone, QK-norm over all heads. OLMo 3 adds windows."""

from ..checkpoint.errors import ModelError
from .config import HfConfig, LayerConfig, ModelConfig, base_config, rope_config, same_layers
from .names import Names
from .rope_config import RopeConfig

NORMS_AFTER = Names(
    attention_norm="",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="",
    mlp_post_norm="post_feedforward_layernorm",
)


class OlmoFields(HfConfig, kw_only=True):
    clip_qkv: float | None = None


def olmo(hf: OlmoFields) -> ModelConfig:
    if hf.clip_qkv is not None:
        raise ModelError(f"clip_qkv {hf.clip_qkv} is not supported")
    return base_config(
        hf,
        layers=same_layers(hf),
        norm="layer",
        norm_weight=False,
        norm_eps=1e-5,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )


def olmo2(hf: HfConfig) -> ModelConfig:
    return _olmo(hf, same_layers(hf))


def olmo3(hf: HfConfig) -> ModelConfig:
    # Layers with a window are not stretched.
    if "sliding_attention" in (hf.rope_parameters or {}):
        local = rope_config(hf, "sliding_attention")
    else:
        local = RopeConfig(theta=rope_config(hf).theta)
    windowed, full = LayerConfig(local, hf.sliding_window or 0), LayerConfig(rope_config(hf))
    kinds = hf.layer_types or [
        "sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(hf.num_hidden_layers)
    ]
    return _olmo(hf, tuple(windowed if kind == "sliding_attention" else full for kind in kinds))


def _olmo(hf: HfConfig, layers: tuple[LayerConfig, ...]) -> ModelConfig:
    return base_config(
        hf,
        layers=layers,
        names=NORMS_AFTER,
        qk_norm="width",
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )
