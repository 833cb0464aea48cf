"""GLM-4.5 (arXiv 2508.06471) and dots.llm1 (arXiv 2506.05767): experts as DeepSeek-V3 chooses them (arXiv 2412.19437),
by sigmoids with a bias that balances how often each is chosen, and a shared one. GLM rotates half of each head.

Layers that predict further tokens (MTP) are not read.
"""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import ExpertsConfig, Fields, ModelConfig, base_config, renamed, same_layers
from .experts_config import ExpertsFields, read_experts, with_experts
from .qwen import upper_windows


class DeepSeekFields(ExpertsFields, kw_only=True):
    n_shared_experts: int | None = None
    n_group: int | None = 1
    routed_scaling_factor: float = 1.0
    first_k_dense_replace: int = 0

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        return renamed(said, num_experts="n_routed_experts")


class Glm4MoeFields(DeepSeekFields, kw_only=True):
    partial_rotary_factor: float | None = 0.5
    use_qk_norm: bool = False
    norm_topk_prob: bool = True
    first_k_dense_replace: int = 1
    rms_norm_eps: float = 1e-5


def glm4_moe(hf: Glm4MoeFields) -> ModelConfig:
    config = base_config(
        hf, layers=same_layers(hf), qkv_bias=hf.attention_bias, qk_norm="head" if hf.use_qk_norm else None
    )
    return with_experts(config, _dense_first(hf), _experts(hf))


def dots1(hf: DeepSeekFields) -> ModelConfig:
    layers, bias = upper_windows(replace(hf, use_sliding_window=True)), hf.attention_bias
    config = base_config(hf, layers=layers, qk_norm="head", qkv_bias=bias, output_bias=bias)
    return with_experts(config, _dense_first(hf), _experts(hf))


def _dense_first(hf: DeepSeekFields) -> DeepSeekFields:
    return replace(hf, mlp_only_layers=list(range(hf.first_k_dense_replace)))


def _experts(hf: DeepSeekFields) -> ExpertsConfig:
    if (hf.n_group or 1) != 1:
        raise ModelError(f"n_group is {hf.n_group}: to choose groups of experts first is not supported")
    experts = read_experts(hf, hf.moe_intermediate_size, hf.norm_topk_prob)
    return replace(
        experts,
        scoring="sigmoid",
        scale=hf.routed_scaling_factor,
        choice_bias="gate.e_score_correction_bias",
        shared_width=experts.width * (hf.n_shared_experts or 0),
        shared="mlp.shared_experts",
    )
