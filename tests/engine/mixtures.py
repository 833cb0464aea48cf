"""A small random model of each family that has experts, in transformers' own classes."""

from transformers import (
    Dots1Config,
    Dots1ForCausalLM,
    Ernie4_5_MoeConfig,
    Ernie4_5_MoeForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    GraniteMoeSharedConfig,
    GraniteMoeSharedForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MiniMaxM2Config,
    MiniMaxM2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from .family_shapes import (
    EXPERTS,
    HALF,
    LONGROPE,
    MULTIPLIERS,
    OLMO,
    PHI3,
    PHI3_LAYERS,
    SHARED,
    TWO_LAYERS,
    YARN,
    Families,
)

MIXTURES: Families = {
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**TWO_LAYERS, num_local_experts=5, num_experts_per_tok=2, sliding_window=11),
    ),
    "qwen2 moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig(**SHARED, decoder_sparse_step=2)),
    "qwen2 moe window": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(
            **SHARED, qkv_bias=False, norm_topk_prob=True, use_sliding_window=True, sliding_window=9,
            max_window_layers=1,
        ),
    ),
    "qwen3 moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**TWO_LAYERS, **EXPERTS, norm_topk_prob=True, mlp_only_layers=[1]),
    ),
    "olmoe": (
        OlmoeForCausalLM,
        OlmoeConfig(**{**OLMO, "num_hidden_layers": 2}, num_experts=7, num_experts_per_tok=3),
    ),
    "phimoe": (
        PhimoeForCausalLM,
        PhimoeConfig(
            **{**PHI3, "num_hidden_layers": 2}, num_local_experts=6, router_jitter_noise=0.2, attention_bias=True,
            lm_head_bias=True,
        ),
    ),
    "phimoe longrope": (
        PhimoeForCausalLM,
        PhimoeConfig(
            **{**PHI3, "num_hidden_layers": 2}, num_local_experts=6, sliding_window=11,
            rope_parameters={
                **LONGROPE, "short_mscale": 1.2, "long_mscale": 1.3, "original_max_position_embeddings": 96,
            },
        ),
    ),
    "gpt_oss": (
        GptOssForCausalLM,
        GptOssConfig(
            **TWO_LAYERS, num_local_experts=6, num_experts_per_tok=3, sliding_window=11, swiglu_limit=2.5,
            rope_parameters={**YARN, "beta_fast": 4, "truncate": False},
        ),
    ),
    "granite moe": (
        GraniteMoeForCausalLM,
        GraniteMoeConfig(**PHI3_LAYERS, **MULTIPLIERS, num_local_experts=5, num_experts_per_tok=2),
    ),
    "granite moe with a shared expert": (
        GraniteMoeSharedForCausalLM,
        GraniteMoeSharedConfig(**PHI3_LAYERS, **MULTIPLIERS, num_local_experts=5, shared_intermediate_size=56),
    ),
    "glm4 moe": (
        Glm4MoeForCausalLM,
        Glm4MoeConfig(
            **TWO_LAYERS, n_routed_experts=7, num_experts_per_tok=3, moe_intermediate_size=40, n_shared_experts=2,
            routed_scaling_factor=1.8, attention_bias=True, use_qk_norm=True,
        ),
    ),
    "dots1": (
        Dots1ForCausalLM,
        Dots1Config(
            **TWO_LAYERS, n_routed_experts=7, num_experts_per_tok=3, moe_intermediate_size=40, n_shared_experts=1,
            first_k_dense_replace=0, sliding_window=11, max_window_layers=1,
        ),
    ),
    "ernie moe": (
        Ernie4_5_MoeForCausalLM,
        Ernie4_5_MoeConfig(
            **TWO_LAYERS, moe_num_experts=7, moe_k=3, moe_intermediate_size=40, moe_num_shared_experts=2,
        ),
    ),
    "minimax m2": (
        MiniMaxM2ForCausalLM,
        MiniMaxM2Config(**TWO_LAYERS, num_local_experts=7, num_experts_per_tok=3, rope_parameters=HALF),
    ),
    "llama4": (
        Llama4ForCausalLM,
        Llama4TextConfig(
            **TWO_LAYERS, num_local_experts=5, num_experts_per_tok=2, intermediate_size_mlp=72, moe_layers=[1],
            no_rope_layers=[1, 0],
        ),
    ),
}  # fmt: skip
