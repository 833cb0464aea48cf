"""MiniMax-M2 (MiniMax, 2025): a QK-norm over all heads, of which the first dims are rotated, and experts chosen by
sigmoids with a bias. Layers that predict further tokens (MTP) are not read.
"""

from msgspec.structs import replace

from .config import Fields, ModelConfig, base_config, same_layers
from .experts_config import ExpertsFields, read_experts, with_experts


class MiniMaxM2Fields(ExpertsFields, kw_only=True):
    @classmethod
    def fields(cls, said: Fields) -> Fields:
        rotated, dims = said.get("rotary_dim"), said.get("head_dim")
        if isinstance(rotated, int) and isinstance(dims, int) and dims > 0:
            return {"partial_rotary_factor": rotated / dims, **said}
        return said


def minimax_m2(hf: MiniMaxM2Fields) -> ModelConfig:
    config = base_config(hf, layers=same_layers(hf), qk_norm="width")
    experts = replace(
        read_experts(hf, hf.intermediate_size, renormalise=True),
        scoring="sigmoid",
        module="block_sparse_moe",
        choice_bias="e_score_correction_bias",
        names=("w1", "w3", "w2"),
    )
    return with_experts(config, hf, experts)
