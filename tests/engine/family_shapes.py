"""Sizes of the small random models, and what several of them have in common."""

from transformers import PretrainedConfig, PreTrainedModel

SMALL = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
TWO_LAYERS = {**SMALL, "num_hidden_layers": 2}  # a choice of experts may hang on a rounding of the layers before
EXPERTS = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
SHARED = {**TWO_LAYERS, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 56}
HEAD_DIM_16 = {**SMALL, "head_dim": 16}
PHI3 = {name: value for name, value in SMALL.items() if name != "head_dim"}
PHI3_LAYERS = {**PHI3, "num_hidden_layers": 2}
MULTIPLIERS = {
    "embedding_multiplier": 7.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3, "logits_scaling": 0.7,
}  # fmt: skip
OLMO = PHI3 | {"rms_norm_eps": 1e-5}
HALF_ROTATED = HEAD_DIM_16 | {"partial_rotary_factor": 0.5}
PLAIN = {name: value for name, value in PHI3.items() if name not in ("intermediate_size", "num_key_value_heads")}
GPT2 = {
    "vocab_size": 320, "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 128, "initializer_range": 0.25,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
PROMPTS = [[7], list(range(3, 43)), [5, 9] * 30]
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [4.0 + i for i in range(8)],
}
FULL = ["full_attention"] * 3
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
SCALED_QUERIES = {"llama_4_scaling_beta": 0.1, "max_position_embeddings": 128}
Families = dict[str, tuple[type[PreTrainedModel], PretrainedConfig]]
