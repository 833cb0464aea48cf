"""What config.json says of a mixture of experts, for the families that have one."""

from msgspec.structs import replace

from ..checkpoint.errors import ModelError
from .config import ExpertsConfig, HfConfig, ModelConfig


class ExpertsFields(HfConfig, kw_only=True):
    num_experts: int | None = None  # or n_routed_experts
    num_local_experts: int | None = None  # Mixtral's name, and transformers 5's for others
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None


def _positive(name: str, size: int | None) -> int:
    if size is None or size < 1:
        raise ModelError(f"a mixture of experts, but {name} is {'missing' if size is None else size}")
    return size


def read_experts(hf: ExpertsFields, width: int | None, renormalise: bool) -> ExpertsConfig:
    """The experts of a layer, each of that width. Raises ModelError for what is missing or cannot be."""
    count = _positive("num_experts", hf.num_experts or hf.num_local_experts)
    slots = _positive("num_experts_per_tok", hf.num_experts_per_tok)
    width = _positive("the experts' intermediate_size", width)
    if slots > count:
        raise ModelError(f"num_experts_per_tok is {slots}, of {count} experts in all")
    return ExpertsConfig(count=count, slots=slots, width=width, renormalise=renormalise)


def with_experts(config: ModelConfig, hf: ExpertsFields, experts: ExpertsConfig) -> ModelConfig:
    """Experts in the layers that config.json does not keep for a plain MLP. Raises ModelError."""
    if hf.decoder_sparse_step < 1:
        raise ModelError(f"decoder_sparse_step is {hf.decoder_sparse_step}")
    dense = set(hf.mlp_only_layers or ())
    layers = (
        layer if index in dense or (index + 1) % hf.decoder_sparse_step else replace(layer, experts=experts)
        for index, layer in enumerate(config.layers)
    )
    return replace(config, layers=tuple(layers))
