"""ERNIE 4.5 (Baidu, 2025), and Helium (Kyutai, 2025): Llama with an interleaved rotation. ERNIE's mixtures have shared
experts, and choose the others by their softmax and a bias that balances how often each is chosen.
"""

from typing import Any

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, renamed, rope_config
from .experts_config import ExpertsFields, read_experts, with_experts


class ErnieFields(HfConfig, kw_only=True):
    use_bias: bool = False


class ErnieMoeFields(ExpertsFields, kw_only=True):
    rms_norm_eps: float = 1e-5
    use_bias: bool = False
    moe_num_shared_experts: int = 0
    moe_layer_start_index: int = 1
    moe_layer_end_index: int = -1
    moe_layer_interval: int = 1

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, num_experts="moe_num_experts", num_experts_per_tok="moe_k")


def ernie(hf: ErnieFields) -> ModelConfig:
    return _interleaved(hf, tied=True, qkv_bias=hf.use_bias, output_bias=hf.use_bias, mlp_bias=hf.use_bias)


def ernie_moe(hf: ErnieMoeFields) -> ModelConfig:
    if hf.use_bias:  # which the head has then, too; no released checkpoint sets it
        raise ModelError("use_bias is not supported in a mixture of experts")
    if hf.moe_layer_interval < 1:
        raise ModelError(f"moe_layer_interval is {hf.moe_layer_interval}")
    last = hf.moe_layer_end_index if hf.moe_layer_end_index >= 0 else hf.num_hidden_layers - 1
    layers = range(hf.num_hidden_layers)
    dense = [index for index in layers if not hf.moe_layer_start_index <= index <= last]
    experts = read_experts(hf, hf.moe_intermediate_size, renormalise=True)
    experts = replace(
        experts,
        choice_bias="moe_statics.e_score_correction_bias",
        shared_width=experts.width * hf.moe_num_shared_experts,
        shared="mlp.shared_experts",
    )
    config = _interleaved(hf, tied=True)
    return with_experts(config, replace(hf, mlp_only_layers=dense, decoder_sparse_step=hf.moe_layer_interval), experts)


def helium(hf: HfConfig) -> ModelConfig:
    return _interleaved(hf, qkv_bias=hf.attention_bias, mlp_bias=hf.mlp_bias)


def _interleaved(hf: HfConfig, **special: Any) -> ModelConfig:
    layer = LayerConfig(replace(rope_config(hf), interleaved=True))
    return base_config(hf, layers=(layer,) * hf.num_hidden_layers, **special)
