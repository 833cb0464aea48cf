"""GPT-OSS (arXiv 2508.10925): experts in every layer, attention sinks, a window in every other layer, biases, YaRN."""

from typing import Final

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from ..checkpoint.packed_config import PackedWeights
from .config import ClampedSilu, LayerConfig, ModelConfig, base_config, rope_config
from .experts_config import ExpertsFields, read_experts, with_experts

MXFP4: Final = "mxfp4"


class GptOssFields(ExpertsFields, kw_only=True):
    attention_bias: bool = True
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0


def gpt_oss(hf: GptOssFields) -> ModelConfig:
    packed = None
    if (quantization := hf.quantization_config) is not None:
        if (method := quantization.get("quant_method")) != MXFP4:
            raise ModelError(f"GPT-OSS quantised by '{method}' is not supported (known: {MXFP4}, its own form)")
        packed = PackedWeights(method=MXFP4, rules=())
        hf = replace(hf, quantization_config=None)
    if hf.swiglu_limit <= 0:
        raise ModelError(f"swiglu_limit is {hf.swiglu_limit}")
    experts = replace(
        read_experts(hf, hf.intermediate_size, renormalise=True),
        router="router",
        bias=True,
        clamp=ClampedSilu(hf.swiglu_alpha, hf.swiglu_limit),
    )
    kinds = hf.layer_types or [
        "full_attention" if index % 2 else "sliding_attention" for index in range(hf.num_hidden_layers)
    ]
    rope, window = rope_config(hf), hf.sliding_window or 0
    config = base_config(
        hf,
        dtype=hf.dtype or hf.torch_dtype or "bfloat16",  # its config.json does not say
        layers=tuple(LayerConfig(rope, window if kind == "sliding_attention" else 0) for kind in kinds),
        qkv_bias=hf.attention_bias,
        output_bias=hf.attention_bias,
        attention_sinks=True,
        packed_weights=packed,
        interleaved_experts=True,
    )
    return with_experts(config, hf, experts)
