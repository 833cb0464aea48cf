"""config.json of models that people run, as far as it concerns the runtime: what is read of each."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.models.config import LayerConfig, ModelConfig
from headwater.engine.models.families import read_config

Fields = dict[str, Any]


class Read(NamedTuple):
    """What a config comes to."""

    layers: int
    heads: tuple[int, int, int]  # of queries, of keys; dims of each
    max_positions: int
    rope: str
    windows: dict[int, int]  # how many layers see so many positions


def sizes(hidden: int, width: int, layers: int, heads: int, kv_heads: int, vocab: int) -> Fields:
    return {
        "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab, "torch_dtype": "bfloat16",
    }  # fmt: skip


LLAMA3 = {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
YARN3 = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1e6, "rope_type": "yarn",
    "type": "yarn",
}  # fmt: skip
MODELS: dict[str, tuple[str, Fields, Read]] = {
    "Llama 3.2 1B": (
        "LlamaForCausalLM",
        sizes(2048, 8192, 16, 32, 8, 128256)
        | {"head_dim": 64, "max_position_embeddings": 131072, "rope_scaling": LLAMA3, "rope_theta": 500000.0},
        Read(16, (32, 8, 64), 131072, "llama3", {0: 16}),
    ),
    "Qwen2.5 7B": (
        "Qwen2ForCausalLM",
        sizes(3584, 18944, 28, 28, 4, 152064)
        | {"max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 131072,
           "use_sliding_window": False, "rope_theta": 1000000.0},
        Read(28, (28, 4, 128), 32768, "default", {0: 28}),
    ),
    "DeepSeek R1 0528 Qwen3 8B": (
        "Qwen3ForCausalLM",
        sizes(4096, 12288, 36, 32, 8, 151936)
        | {"head_dim": 128, "max_position_embeddings": 131072, "attention_bias": False, "sliding_window": None,
           "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
                            "attn_factor": 0.8782488562869419}},
        Read(36, (32, 8, 128), 131072, "yarn", {0: 36}),
    ),
    "Qwen3 30B-A3B": (
        "Qwen3MoeForCausalLM",
        sizes(2048, 6144, 48, 32, 4, 151936)
        | {"head_dim": 128, "max_position_embeddings": 262144, "decoder_sparse_step": 1, "mlp_only_layers": [],
           "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8},
        Read(48, (32, 4, 128), 262144, "default", {0: 48}),
    ),
    "Mistral Small 3.2": (
        "Mistral3ForConditionalGeneration",
        {"model_type": "mistral3", "torch_dtype": "bfloat16", "text_config": {
            "model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 32768,
            "head_dim": 128, "num_key_value_heads": 8, "rope_theta": 1000000000.0, "sliding_window": None,
            "max_position_embeddings": 131072, "vocab_size": 131072}},
        Read(40, (32, 8, 128), 131072, "default", {0: 40}),
    ),
    "Ministral 3 8B": (
        "Mistral3ForConditionalGeneration",
        {"model_type": "mistral3", "dtype": "bfloat16", "text_config": sizes(4096, 14336, 34, 32, 8, 131072) | {
            "model_type": "ministral3", "head_dim": 128, "max_position_embeddings": 262144, "rope_parameters": YARN3,
            "sliding_window": None}},
        Read(34, (32, 8, 128), 16384, "yarn", {0: 34}),
    ),
    "Ministral 8B": (
        "MistralForCausalLM",
        sizes(4096, 12288, 36, 32, 8, 131072)
        | {"head_dim": 128, "max_position_embeddings": 32768, "sliding_window": 32768, "rope_theta": 1e8},
        Read(36, (32, 8, 128), 32768, "default", {32768: 36}),
    ),
    "Phi-4": (
        "Phi3ForCausalLM",
        sizes(5120, 17920, 40, 40, 10, 100352)
        | {"max_position_embeddings": 16384, "original_max_position_embeddings": 16384, "rope_scaling": None,
           "sliding_window": None, "rope_theta": 250000, "partial_rotary_factor": 1.0},
        Read(40, (40, 10, 128), 16384, "default", {0: 40}),
    ),
    "Phi-4-mini": (
        "Phi3ForCausalLM",
        sizes(3072, 8192, 32, 24, 8, 200064)
        | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144,
           "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
           "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.1] * 48}},
        Read(32, (24, 8, 128), 4096, "longrope", {262144: 32}),
    ),
    "Granite 3.3 8B": (
        "GraniteForCausalLM",
        sizes(4096, 12800, 40, 32, 8, 49159)
        | {"attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
           "logits_scaling": 16.0, "max_position_embeddings": 131072, "rope_theta": 10000000.0,
           "tie_word_embeddings": True},
        Read(40, (32, 8, 128), 131072, "default", {0: 40}),
    ),
    "Granite 4 micro": (
        "GraniteMoeHybridForCausalLM",
        sizes(2560, 8192, 40, 40, 8, 100352)
        | {"attention_multiplier": 0.015625, "embedding_multiplier": 12, "residual_multiplier": 0.22,
           "logits_scaling": 10, "max_position_embeddings": 131072, "rope_theta": 10000000, "rope_scaling": None,
           "position_embedding_type": "rope", "num_local_experts": 0, "num_experts_per_tok": 0,
           "shared_intermediate_size": 8192, "layer_types": ["attention"] * 40, "tie_word_embeddings": True},
        Read(40, (40, 8, 64), 131072, "default", {0: 40}),
    ),
    "SmolLM3 3B": (
        "SmolLM3ForCausalLM",
        sizes(2048, 11008, 36, 16, 4, 128256)
        | {"max_position_embeddings": 65536, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9,
           "layer_types": ["full_attention"] * 36, "rope_theta": 5000000.0, "use_sliding_window": False,
           "sliding_window": None},
        Read(36, (16, 4, 128), 65536, "default", {0: 36}),
    ),
    "Olmo 3 7B": (
        "Olmo3ForCausalLM",
        sizes(4096, 11008, 32, 32, 32, 100278)
        | {"max_position_embeddings": 65536, "sliding_window": 4096, "rope_theta": 500000,
           "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
           "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
                            "original_max_position_embeddings": 8192, "rope_type": "yarn"}},
        Read(32, (32, 32, 128), 65536, "default", {0: 8, 4096: 24}),
    ),
    "Qwen2.5-VL 7B": (
        "Qwen2_5_VLForConditionalGeneration",
        sizes(3584, 18944, 28, 28, 4, 152064)
        | {"model_type": "qwen2_5_vl", "max_position_embeddings": 128000, "max_window_layers": 28,
           "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "sliding_window": 32768,
           "use_sliding_window": False, "vision_config": {"depth": 32}},
        Read(28, (28, 4, 128), 128000, "default", {0: 28}),
    ),
    "EXAONE 4.0 32B": (
        "Exaone4ForCausalLM",
        sizes(5120, 27392, 64, 40, 8, 102400)
        | {"head_dim": 128, "max_position_embeddings": 131072, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
           "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 16, "rope_theta": 1000000,
           "rope_scaling": LLAMA3 | {"factor": 16.0}},
        Read(64, (40, 8, 128), 131072, "llama3", {0: 16, 4096: 48}),
    ),
    "Seed-OSS 36B": (
        "SeedOssForCausalLM",
        sizes(5120, 27648, 64, 80, 8, 155136)
        | {"attention_bias": True, "attention_out_bias": False, "head_dim": 128, "max_position_embeddings": 524288,
           "mlp_bias": False, "rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0},
        Read(64, (80, 8, 128), 524288, "default", {0: 64}),
    ),
    "Hunyuan 7B": (
        "HunYuanDenseV1ForCausalLM",
        sizes(4096, 14336, 32, 32, 8, 128167)
        | {"head_dim": 128, "max_position_embeddings": 262144, "use_qk_norm": True, "use_cla": False,
           "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                            "mscale_all_dim": 1.0, "type": "dynamic"}},
        Read(32, (32, 8, 128), 262144, "default", {0: 32}),
    ),
    "ERNIE 4.5 0.3B": (
        "Ernie4_5ForCausalLM",
        sizes(1024, 3072, 18, 16, 2, 103424)
        | {"head_dim": 128, "max_position_embeddings": 131072, "rope_scaling": None, "rope_theta": 500000,
           "use_bias": False, "tie_word_embeddings": True},
        Read(18, (16, 2, 128), 131072, "default", {0: 18}),
    ),
    "Minitron 4B": (
        "NemotronForCausalLM",
        sizes(3072, 9216, 32, 24, 8, 256000)
        | {"head_dim": 128, "hidden_act": "relu2", "max_position_embeddings": 4096, "norm_eps": 1e-05,
           "partial_rotary_factor": 0.5, "rope_theta": 10000},
        Read(32, (24, 8, 128), 4096, "default", {0: 32}),
    ),
    "InternLM 3 8B": (
        "InternLM3ForCausalLM",
        sizes(4096, 10240, 48, 32, 2, 128512)
        | {"bias": False, "qkv_bias": False, "head_dim": 128, "max_position_embeddings": 32768,
           "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"}, "rope_theta": 50000000},
        Read(48, (32, 2, 128), 32768, "dynamic", {0: 48}),
    ),
    "Apertus 8B": (
        "ApertusForCausalLM",
        sizes(4096, 21504, 32, 32, 8, 131072)
        | {"hidden_act": "xielu", "max_position_embeddings": 65536, "qk_norm": True, "rope_theta": 12000000,
           "rope_scaling": LLAMA3 | {"factor": 8.0}},
        Read(32, (32, 8, 128), 65536, "llama3", {0: 32}),
    ),
    "GLM 4.5 Air": (
        "Glm4MoeForCausalLM",
        sizes(4096, 10944, 46, 96, 8, 151552)
        | {"attention_bias": True, "head_dim": 128, "partial_rotary_factor": 0.5, "moe_intermediate_size": 1408,
           "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128, "routed_scaling_factor": 1.0,
           "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "use_qk_norm": False,
           "max_position_embeddings": 131072, "rope_theta": 1000000, "num_nextn_predict_layers": 1},
        Read(46, (96, 8, 128), 131072, "default", {0: 46}),
    ),
    "ERNIE 4.5 21B-A3B": (
        "Ernie4_5_MoeForCausalLM",
        sizes(2560, 12288, 28, 20, 4, 103424)
        | {"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 1536, "moe_num_shared_experts": 2,
           "moe_layer_start_index": 1, "moe_layer_end_index": 27, "moe_layer_interval": 1, "rope_theta": 500000.0,
           "max_position_embeddings": 131072, "use_bias": False, "tie_word_embeddings": True},
        Read(28, (20, 4, 128), 131072, "default", {0: 28}),
    ),
    "MiniMax M2": (
        "MiniMaxM2ForCausalLM",
        sizes(3072, 1536, 62, 48, 8, 200064)
        | {"head_dim": 128, "rotary_dim": 64, "num_local_experts": 256, "num_experts_per_tok": 8, "use_qk_norm": True,
           "qk_norm_type": "per_layer", "scoring_func": "sigmoid", "use_routing_bias": True, "rope_theta": 5000000,
           "max_position_embeddings": 196608},
        Read(62, (48, 8, 128), 196608, "default", {0: 62}),
    ),
    "Granite 3.1 3B-A800M": (
        "GraniteMoeForCausalLM",
        sizes(1536, 512, 32, 24, 8, 49155)
        | {"num_local_experts": 40, "num_experts_per_tok": 8, "attention_multiplier": 0.015625, "logits_scaling": 6.0,
           "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "max_position_embeddings": 131072,
           "rope_theta": 10000000.0, "tie_word_embeddings": True},
        Read(32, (24, 8, 64), 131072, "default", {0: 32}),
    ),
    "Llama 4 Scout": (
        "Llama4ForConditionalGeneration",
        {"model_type": "llama4", "text_config": sizes(5120, 8192, 48, 40, 8, 202048) | {
            "model_type": "llama4_text", "head_dim": 128, "intermediate_size_mlp": 16384, "num_local_experts": 16,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "no_rope_layers": [1, 1, 1, 0] * 12,
            "use_qk_norm": True, "attention_chunk_size": 8192, "attn_temperature_tuning": 4, "floor_scale": 8192,
            "max_position_embeddings": 10485760, "rope_theta": 500000.0,
            "rope_scaling": LLAMA3 | {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0}}},
        Read(48, (40, 8, 128), 8191, "llama3", {0: 48}),
    ),
    "Command R+ 08-2024": (
        "CohereForCausalLM",
        sizes(12288, 33792, 64, 96, 8, 256000)
        | {"layer_norm_eps": 1e-05, "logit_scale": 0.8333333333333334, "max_position_embeddings": 131072,
           "rope_theta": 8000000.0, "use_qk_norm": True},
        Read(64, (96, 8, 128), 131072, "default", {0: 64}),
    ),
    "StableLM 2 12B": (
        "StableLmForCausalLM",
        sizes(5120, 13824, 40, 32, 8, 100352)
        | {"layer_norm_eps": 1e-05, "max_position_embeddings": 4096, "partial_rotary_factor": 0.25,
           "qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": False},
        Read(40, (32, 8, 160), 4096, "default", {0: 40}),
    ),
}  # fmt: skip


def read(directory: Path, architecture: str, fields: Fields) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps({"architectures": [architecture]} | fields))
    return read_config(directory)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_read_of_a_models_config(tmp_path: Path, model: str) -> None:
    architecture, fields, want = MODELS[model]
    config = read(tmp_path, architecture, fields)
    windows = [layer.window for layer in config.layers]
    first: LayerConfig = config.layers[0]
    heads = (config.num_q_heads, config.num_kv_heads, config.head_dim)
    counts = {window: windows.count(window) for window in sorted(set(windows))}
    assert Read(config.num_layers, heads, config.max_positions, first.rope.kind, counts) == want
    assert config.dtype == "bfloat16"


REFUSED = {
    "Granite 4 H": (
        "GraniteMoeHybridForCausalLM", {"num_local_experts": 0, "layer_types": ["mamba", "attention"]}, "without Mamba"
    ),
    "DeepSeek V3": ("DeepseekV3ForCausalLM", {}, "latent attention"),
    "Bloom": ("BloomForCausalLM", {}, "ALiBi"),
    "Qwen3-Next": ("Qwen3NextForCausalLM", {}, "linear attention"),
    "Nemotron Super": ("DeciLMForCausalLM", {}, "differ from layer to layer"),
    "LFM2": ("Lfm2ForCausalLM", {}, "convolutions"),
}  # fmt: skip


@pytest.mark.parametrize("model", REFUSED)
def test_what_is_not_served_is_refused_with_the_reason(tmp_path: Path, model: str) -> None:
    architecture, fields, reason = REFUSED[model]
    with pytest.raises(ModelError, match=f"{architecture}: .*{reason}|{reason}"):
        read(tmp_path, architecture, sizes(64, 64, 2, 2, 2, 320) | fields)
