"""Mixtral (arXiv 2401.04088): Mistral with a mixture of experts in every layer."""

from msgspec.structs import replace

from .config import ModelConfig
from .experts_config import ExpertsFields, read_experts, with_experts
from .llama import mistral


def mixtral(hf: ExpertsFields) -> ModelConfig:
    experts = read_experts(hf, hf.intermediate_size, renormalise=True)
    return with_experts(mistral(hf), hf, replace(experts, module="block_sparse_moe", names=("w1", "w3", "w2")))
