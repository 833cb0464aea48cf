"""Hunyuan, dense (Tencent, 2025): Llama with a QK-norm after the rotation, whose base is stretched by a fixed alpha."""

from typing import Any

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, rope_config
from .names import Names

NAMES = Names(qk_norm=("query_layernorm", "key_layernorm"))


class HunyuanFields(HfConfig, kw_only=True):
    alpha: float | None = None

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        """With a fixed alpha, ``dynamic`` is a name for what depends on no length."""
        fields = dict(said)
        for name in ("rope_parameters", "rope_scaling"):
            rope: Any = fields.get(name)
            if isinstance(rope, dict) and rope.get("alpha"):
                fields["alpha"] = rope["alpha"]
                fields[name] = {**rope, "type": "default", "rope_type": "default"}
        return fields


def hunyuan(hf: HunyuanFields) -> ModelConfig:
    rope = rope_config(hf)
    if hf.alpha is not None:
        dims = hf.head_dim or hf.hidden_size // hf.num_attention_heads
        if dims < 4 or hf.alpha <= 0:
            raise ModelError(f"alpha {hf.alpha} for heads of {dims} dims")
        rope = replace(rope, theta=rope.theta * hf.alpha ** (dims / (dims - 2)))
    return base_config(
        hf,
        layers=(LayerConfig(rope),) * hf.num_hidden_layers,
        names=NAMES,
        qk_norm="head",
        qk_norm_after=True,
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
    )
