"""A small random model of each of llama.cpp's architectures, and its file as llama.cpp's converter writes it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    ApertusConfig,
    ArceeConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5_MoeConfig,
    Ernie4_5Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    Glm4Config,
    Glm4MoeConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    GraniteConfig,
    GraniteMoeConfig,
    HunYuanDenseV1Config,
    Llama4TextConfig,
    LlamaConfig,
    MiniMaxM2Config,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    Olmo2Config,
    OlmoConfig,
    OlmoeConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from .conftest import HEADS, HIDDEN, KV_HEADS, LAYERS, TOKENS, WIDTH, default_metadata, write_gguf

POSITIONS = 128
SMALL = {
    "vocab_size": len(TOKENS), "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3, "rms_norm_eps": 1e-5, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {
    "rope.freq_base": 1e6,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}
ORIGINAL = 96
SHORT, LONG = [1.0, 1.25, 1.5, 2.0, 3.0, 5.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "partial_rotary_factor": 0.75}
LONGROPE_KEYS = {
    "rope.dimension_count": 12,
    "rope.scaling.attn_factor": math.sqrt(1 + math.log(POSITIONS / ORIGINAL) / math.log(ORIGINAL)),
    "rope.scaling.original_context_length": ORIGINAL,
}
LONGROPE_TENSORS = {
    "rope_factors_long.weight": np.array(LONG, np.float32),
    "rope_factors_short.weight": np.array(SHORT, np.float32),
}

LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
NO_RMS = {name: value for name, value in SMALL.items() if name != "rms_norm_eps"}
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4}
PLAIN = {name: value for name, value in SMALL.items() if name not in ("rms_norm_eps", "num_key_value_heads")}
GPT2 = {
    "vocab_size": len(TOKENS), "n_embd": HIDDEN, "n_inner": WIDTH, "n_layer": LAYERS, "n_head": HEADS,
    "n_positions": POSITIONS, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
CHOICE_BIAS = "e_score_correction_bias"
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
EXPERTS_KEYS = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 64}

# What a family's model is, llama.cpp's name for it, and what its file says beside the sizes.
Case = tuple[PreTrainedConfig, str, dict[str, Any]]
CASES: dict[str, Case] = {
    "llama": (LlamaConfig(**SMALL), "llama", {}),
    "llama, untied": (LlamaConfig(**SMALL, tie_word_embeddings=False), "llama", {}),
    "mistral": (MistralConfig(**SMALL, head_dim=32, sliding_window=None), "llama", {"attention.key_length": 32}),
    "mistral with a window": (
        MistralConfig(**SMALL, sliding_window=9),
        "llama",
        {"attention.sliding_window": 9},
    ),
    "qwen2": (Qwen2Config(**SMALL, tie_word_embeddings=True), "qwen2", {}),
    "qwen2, yarn": (Qwen2Config(**SMALL, rope_parameters=YARN), "qwen2", YARN_KEYS),
    "qwen2, a window nobody uses": (Qwen2Config(**SMALL), "qwen2", {"attention.sliding_window": 9}),
    "qwen3": (Qwen3Config(**SMALL, head_dim=32), "qwen3", {"attention.key_length": 32, "attention.value_length": 32}),
    "qwen3, yarn": (
        Qwen3Config(**SMALL, head_dim=32, rope_parameters=YARN | {"beta_fast": 8.0, "attention_factor": 1.5}),
        "qwen3",
        YARN_KEYS
        | {
            "attention.key_length": 32,
            "rope.scaling.yarn_beta_fast": 8.0,
            "rope.scaling.attn_factor": 1.5 / (0.1 * math.log(4.0) + 1.0),
        },
    ),
    "mixtral": (
        MixtralConfig(**SMALL, num_local_experts=5, num_experts_per_tok=2),
        "llama",
        {"expert_count": 5, "expert_used_count": 2, "rope.freq_base": 1e6},
    ),
    "qwen2 moe": (
        Qwen2MoeConfig(**SMALL, **EXPERTS, shared_expert_intermediate_size=96),
        "qwen2moe",
        EXPERTS_KEYS,
    ),
    "olmoe": (
        OlmoeConfig(**SMALL, num_experts=5, num_experts_per_tok=2),
        "olmoe",
        {"expert_count": 5, "expert_used_count": 2},
    ),
    "qwen3 moe": (
        Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=32, norm_topk_prob=True),
        "qwen3moe",
        EXPERTS_KEYS | {"attention.key_length": 32},
    ),
    "glm4 moe": (
        Glm4MoeConfig(
            **SMALL, head_dim=16, n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=64,
            n_shared_experts=2, routed_scaling_factor=1.5, use_qk_norm=True,
        ),
        "glm4moe",
        EXPERTS_KEYS | {
            "rope.dimension_count": 8, "leading_dense_block_count": 1, "expert_shared_count": 2,
            "expert_weights_scale": 1.5, "expert_weights_norm": True, "expert_gating_func": 2,
            "block_count": LAYERS + 1, "nextn_predict_layers": 1,
        },
    ),
    "ernie4_5 moe": (
        Ernie4_5_MoeConfig(
            **SMALL, moe_num_experts=5, moe_k=2, moe_intermediate_size=64, moe_num_shared_experts=1,
        ),
        "ernie4_5-moe",
        EXPERTS_KEYS | {"leading_dense_block_count": 1, "interleave_moe_layer_step": 1},
    ),
    "minimax m2": (
        MiniMaxM2Config(**SMALL, head_dim=16, num_local_experts=5, num_experts_per_tok=2, rotary_dim=8),
        "minimax-m2",
        EXPERTS_KEYS | {"rope.dimension_count": 8, "expert_feed_forward_length": WIDTH, "expert_gating_func": 2},
    ),
    "granite moe": (
        GraniteMoeConfig(
            **SMALL, num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=7.0, attention_multiplier=0.25,
            residual_multiplier=0.375, logits_scaling=0.5,
        ),
        "granitemoe",
        EXPERTS_KEYS | {
            "attention.scale": 0.25, "embedding_scale": 7.0, "residual_scale": 0.375, "logit_scale": 0.5,
        },
    ),
    "llama4": (
        Llama4TextConfig(
            **SMALL, head_dim=16, num_local_experts=5, num_experts_per_tok=1, intermediate_size_mlp=96,
            interleave_moe_layer_step=2,
        ),
        "llama4",
        EXPERTS_KEYS | {
            "expert_used_count": 1, "expert_feed_forward_length": WIDTH, "feed_forward_length": 96,
            "interleave_moe_layer_step": 2,
        },
    ),
    "phi3": (Phi3Config(**SMALL, sliding_window=9), "phi3", {"attention.sliding_window": 9}),
    "phi3, longrope": (
        Phi3Config(**SMALL, original_max_position_embeddings=ORIGINAL, rope_parameters=LONGROPE),
        "phi3",
        LONGROPE_KEYS,
    ),
    "gemma": (GemmaConfig(**SMALL, head_dim=32), "gemma", {"attention.key_length": 32}),
    "gemma2": (
        Gemma2Config(
            **SMALL, head_dim=32, sliding_window=9, query_pre_attn_scalar=32, attn_logit_softcapping=7.0,
            attn_implementation="eager",
        ),
        "gemma2",
        {
            "attention.key_length": 32,
            "attention.sliding_window": 9,
            "attn_logit_softcapping": 7.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "granite": (
        GraniteConfig(
            **SMALL, embedding_multiplier=7.0, attention_multiplier=0.25, residual_multiplier=0.375, logits_scaling=0.5
        ),
        "granite",
        {"attention.scale": 0.25, "embedding_scale": 7.0, "residual_scale": 0.375, "logit_scale": 0.5},
    ),
    "smollm3": (SmolLM3Config(**SMALL | {"num_hidden_layers": 4}), "smollm3", {}),
    "olmo2": (Olmo2Config(**SMALL, tie_word_embeddings=False), "olmo2", {}),
    "glm4": (
        Glm4Config(**SMALL, head_dim=16, tie_word_embeddings=False),
        "glm4",
        {"rope.dimension_count": 8},
    ),
    "command-r": (
        CohereConfig(**SMALL, logit_scale=0.75),
        "command-r",
        LAYER_NORM | {"logit_scale": 0.75},
    ),
    "cohere2": (
        Cohere2Config(**SMALL | {"num_hidden_layers": 4}, sliding_window=9, logit_scale=0.75),
        "cohere2",
        LAYER_NORM | {"logit_scale": 0.75, "attention.sliding_window": 9},
    ),
    "phi2": (PhiConfig(**PLAIN), "phi2", LAYER_NORM | {"rope.dimension_count": 8}),
    "phi2, fused": (PhiConfig(**PLAIN), "phi2", LAYER_NORM | {"rope.dimension_count": 8}),
    "stablelm": (
        StableLmConfig(**SMALL, use_qkv_bias=True, tie_word_embeddings=False),
        "stablelm",
        LAYER_NORM | {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    "stablelm, side by side": (
        StableLmConfig(**SMALL, use_parallel_residual=True),
        "stablelm",
        LAYER_NORM | {"rope.dimension_count": 4},
    ),
    "starcoder2": (Starcoder2Config(**SMALL, sliding_window=None), "starcoder2", LAYER_NORM),
    "gptneox": (
        GPTNeoXConfig(**PLAIN, tie_word_embeddings=False), "gptneox", LAYER_NORM | {"rope.dimension_count": 4}
    ),
    "gptneox, one after the other": (
        GPTNeoXConfig(**PLAIN, use_parallel_residual=False, tie_word_embeddings=False),
        "gptneox",
        LAYER_NORM | {"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "falcon 7b": (FalconConfig(**PLAIN, ffn_hidden_size=WIDTH), "falcon", LAYER_NORM | {"attention.head_count_kv": 1}),
    "falcon 40b": (
        FalconConfig(**PLAIN, ffn_hidden_size=WIDTH, num_kv_heads=2, new_decoder_architecture=True),
        "falcon",
        LAYER_NORM | {"attention.head_count_kv": 2},
    ),
    "gpt2": (GPT2Config(**GPT2), "gpt2", LAYER_NORM),
    "nemotron": (
        NemotronConfig(**{**NO_RMS, "initializer_range": 0.2}, head_dim=16, rope_parameters=HALF),
        "nemotron",
        LAYER_NORM | {"rope.dimension_count": 8},
    ),
    "olmo": (OlmoConfig(**NO_RMS), "olmo", LAYER_NORM),
    "command-r with norms of heads": (
        CohereConfig(**SMALL, logit_scale=0.75, use_qk_norm=True), "command-r", LAYER_NORM | {"logit_scale": 0.75}
    ),
    "stablelm with norms of heads": (
        StableLmConfig(**SMALL, qk_layernorm=True), "stablelm", LAYER_NORM | {"rope.dimension_count": 4}
    ),
    "seed_oss": (
        SeedOssConfig(**SMALL, head_dim=32, attention_bias=True, attention_out_bias=False),
        "seed_oss",
        {"attention.key_length": 32},
    ),
    "arcee": (ArceeConfig(**SMALL), "arcee", {}),
    "apertus": (
        ApertusConfig(**{**SMALL, "initializer_range": 0.1}, dtype=torch.float32, rope_parameters=PLAIN_ROPE),
        "apertus",
        {"xielu.beta": [0.5] * LAYERS, "xielu.eps": [-1e-6] * LAYERS},
    ),
    "ernie4_5": (Ernie4_5Config(**SMALL, head_dim=32), "ernie4_5", {"attention.key_length": 32}),
    "exaone4": (
        Exaone4Config(**SMALL | {"num_hidden_layers": 4}, sliding_window=9),
        "exaone4",
        {"attention.sliding_window": 9},
    ),
    "exaone4 without windows": (
        Exaone4Config(**SMALL, sliding_window=None, layer_types=["full_attention"] * LAYERS), "exaone4", {}
    ),
    "hunyuan-dense": (HunYuanDenseV1Config(**SMALL, head_dim=16), "hunyuan-dense", {}),
    "starcoder": (GPTBigCodeConfig(**GPT2), "starcoder", LAYER_NORM | {"attention.head_count_kv": 1}),
}  # fmt: skip


def metadata(config: PreTrainedConfig, architecture: str, more: dict[str, Any]) -> dict[str, Any]:
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": WIDTH,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", HEADS),
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        "rope.freq_base": float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)),
    }
    tokenizer = {key: value for key, value in default_metadata().items() if key.startswith("tokenizer.")}
    named = {key if key.startswith("xielu.") else f"{architecture}.{key}": value for key, value in more.items()}
    return tokenizer | {f"{architecture}.{key}": value for key, value in sizes.items()} | named


def random_model(config: PreTrainedConfig) -> torch.nn.Module:
    """In fp32 with weights that bf16 has, so that a converted file can hold them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases, whose initial values would hide them
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            parameter.copy_(parameter.bfloat16().float())
        for name, values in model.state_dict().items():
            if name.endswith(CHOICE_BIAS):
                values.copy_(torch.randn(values.shape) * 0.3)
    return model


def stacked(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts as llama.cpp has them; and the gate of a shared one, whose only output it leaves out."""
    written: dict[str, np.ndarray] = {}
    for name, values in weights.items():
        layer = f"blk.{name.split('.')[2]}" if ".layers." in name else ""
        if ".feed_forward.experts." in name:  # Llama 4 has them as [in, out]
            values = np.ascontiguousarray(values.swapaxes(1, 2))
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(values, 2, axis=1)
            written |= {f"{layer}.ffn_gate_exps.weight": gate, f"{layer}.ffn_up_exps.weight": up}
        elif name.endswith("experts.down_proj"):
            written[f"{layer}.ffn_down_exps.weight"] = values
        elif name.endswith("block_sparse_moe.router.weight"):
            written[f"{layer}.ffn_gate_inp.weight"] = values
        elif name.endswith(CHOICE_BIAS):
            written[f"{layer}.exp_probs_b.bias"] = values.reshape(-1)
        else:
            written[name] = values[0] if name.endswith("shared_expert_gate.weight") else values
    return written


def ungrouped(qkv: np.ndarray, kv_heads: int) -> np.ndarray:
    """Falcon's and GPT-NeoX's matrix with all queries, keys, values, as llama.cpp has it."""
    head_dim = HIDDEN // HEADS
    groups = qkv.reshape(kv_heads, -1, head_dim, *qkv.shape[1:])
    parts = groups[:, :-2], groups[:, -2], groups[:, -1]
    return np.concatenate([part.reshape(-1, *qkv.shape[1:]) for part in parts])


def as_llama_cpp_has_it(case: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    config, architecture, more = CASES[case]
    weights = stacked(weights)
    if architecture.startswith(("gemma", "nemotron")):
        weights = {name: w + 1.0 if "norm.weight" in name else w for name, w in weights.items()}
    if "norms of heads" in case and architecture == "stablelm":
        for layer in range(config.num_hidden_layers):
            for part, count in (("q", HEADS), ("k", KV_HEADS)):
                norms = f"model.layers.{layer}.self_attn.{part}_layernorm.norms"
                stack = np.stack([weights.pop(f"{norms}.{head}.weight") for head in range(count)])
                weights[f"blk.{layer}.attn_{part}_norm.weight"] = stack
    if architecture in ("falcon", "gptneox"):
        kv_heads = more.get("attention.head_count_kv", HEADS)
        weights = {n: ungrouped(w, kv_heads) if ".query_key_value." in n else w for n, w in weights.items()}
    if architecture == "gpt2":
        columns = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
        weights = {name: w.T if name.endswith(columns) else w for name, w in weights.items()}
    if "fused" in case:
        for layer in range(config.num_hidden_layers):
            for kind in ("weight", "bias"):
                names = [f"model.layers.{layer}.self_attn.{part}_proj.{kind}" for part in "qkv"]
                weights[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate([weights.pop(name) for name in names])
    if "nextn_predict_layers" in more:  # a layer that predicts further tokens
        weights[f"blk.{config.num_hidden_layers}.nextn.eh_proj.weight"] = np.ones((4, 4), np.float32)
    return weights | (LONGROPE_TENSORS if "longrope" in case else {})


def write(
    directory: Path,
    case: str,
    model: torch.nn.Module | None = None,
    changes: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    config, architecture, more = CASES[case]
    model = model or random_model(config)
    buffers = ((name, values) for name, values in model.named_buffers() if name.endswith(CHOICE_BIAS))
    weights = {name: values.detach().numpy() for name, values in (*model.named_parameters(), *buffers)}
    said = metadata(config, architecture, more)
    for kind in ("alpha_p", "alpha_n") if architecture == "apertus" else ():
        layers = (f"model.layers.{layer}.mlp.act_fn.{kind}" for layer in range(config.num_hidden_layers))
        said[f"xielu.{kind}"] = [weights.pop(name).item() for name in layers]
    return write_gguf(
        directory / "tiny.gguf",
        as_llama_cpp_has_it(case, weights) | (tensors or {}),
        said | (changes or {}),
        architecture=architecture,
    )
