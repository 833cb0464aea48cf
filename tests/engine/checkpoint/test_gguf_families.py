"""A small random model of each family, written as llama.cpp's converter writes it, comes back as it was."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    ArceeConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    Glm4Config,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    GraniteConfig,
    HunYuanDenseV1Config,
    LlamaConfig,
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

from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_config import model_config
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.models.families import read_config

from ..forward import prompt_logits
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
PLAIN = {name: value for name, value in SMALL.items() if name not in ("rms_norm_eps", "num_key_value_heads")}
GPT2 = {
    "vocab_size": len(TOKENS), "n_embd": HIDDEN, "n_inner": WIDTH, "n_layer": LAYERS, "n_head": HEADS,
    "n_positions": POSITIONS, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
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
    return tokenizer | {f"{architecture}.{key}": value for key, value in (sizes | more).items()}


def random_model(config: PreTrainedConfig) -> torch.nn.Module:
    """In fp32 with weights that bf16 has, so that a converted file can hold them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases, whose initial values would hide them
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            parameter.copy_(parameter.bfloat16().float())
    return model


def stacked(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Experts as llama.cpp has them; and the gate of a shared one, whose only output it leaves out."""
    written: dict[str, np.ndarray] = {}
    for name, values in weights.items():
        layer = f"blk.{name.split('.')[2]}" if ".layers." in name else ""
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(values, 2, axis=1)
            written |= {f"{layer}.ffn_gate_exps.weight": gate, f"{layer}.ffn_up_exps.weight": up}
        elif name.endswith("experts.down_proj"):
            written[f"{layer}.ffn_down_exps.weight"] = values
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
    return weights | (LONGROPE_TENSORS if "longrope" in case else {})


def write(
    directory: Path,
    case: str,
    model: torch.nn.Module | None = None,
    changes: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    config, architecture, more = CASES[case]
    weights = {name: tensor.detach().numpy() for name, tensor in (model or random_model(config)).named_parameters()}
    return write_gguf(
        directory / "tiny.gguf",
        as_llama_cpp_has_it(case, weights) | (tensors or {}),
        metadata(config, architecture, more) | (changes or {}),
        architecture=architecture,
    )


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_are_those_of_the_model_that_was_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = random_model(CASES[case][0])
    path = write(tmp_path, case, model)
    convert(path, tmp_path / "out")
    ids = [5, 9, 7] * 13  # longer than the windows
    want = model(torch.tensor([ids])).logits[0]
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    torch.testing.assert_close(converted(torch.tensor([ids])).logits[0], want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prompt_logits(tmp_path / "out", ids), want, rtol=1e-4, atol=1e-4)
    served = prompt_logits(cached_conversion(path), ids)  # the file's own tensors
    torch.testing.assert_close(served, want, rtol=1e-4, atol=1e-4)
    spread = want.std().item()
    assert spread > 0.1, "logits so close together would hide an error"


def test_a_window_makes_a_llama_a_mistral(tmp_path: Path) -> None:
    convert(write(tmp_path, "mistral with a window"), tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert config.architecture == "MistralForCausalLM"
    assert {layer.window for layer in config.layers} == {9}


def test_longrope_keeps_both_sets_of_divisors_and_its_context(tmp_path: Path) -> None:
    convert(write(tmp_path, "phi3, longrope"), tmp_path / "out")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert converted.rope_parameters["short_factor"] == SHORT
    assert converted.rope_parameters["long_factor"] == LONG
    assert (converted.max_position_embeddings, converted.original_max_position_embeddings) == (POSITIONS, ORIGINAL)
    config = read_config(tmp_path / "out")
    assert config.max_positions == ORIGINAL
    assert config.layers[0].rope.partial == 0.75


@pytest.mark.parametrize(("positions", "window"), [(4096, 2047), (8192, 0)])
def test_old_files_of_phi3_4k_have_its_window(tmp_path: Path, positions: int, window: int) -> None:
    """llama.cpp tells these models by 32 or 40 layers and a context of 4096."""
    config = Phi3Config(**SMALL | {"num_hidden_layers": 32, "max_position_embeddings": positions})
    weights = {name: tensor.detach().numpy() for name, tensor in random_model(config).named_parameters()}
    said = metadata(config, "phi3", {})
    convert(write_gguf(tmp_path / "tiny.gguf", weights, said, architecture="phi3"), tmp_path / "out")
    assert {layer.window for layer in read_config(tmp_path / "out").layers} == {window}


@pytest.mark.parametrize("rotated", [26, 30, 92])
def test_any_share_of_a_head_is_rotated_as_its_readers_compute_it(tmp_path: Path, rotated: int) -> None:
    """26 / 92 * 92 is a little less than 26 in floating point."""
    path = write(tmp_path, "phi3", changes={"phi3.attention.key_length": 92, "phi3.rope.dimension_count": rotated})
    assert int(92 * model_config(GgufFile(path))["partial_rotary_factor"]) == rotated


Damage = tuple[str, dict[str, Any], dict[str, np.ndarray], str]
DAMAGED: dict[str, Damage] = {
    "kv heads": ("qwen2", {"qwen2.attention.head_count_kv": 3}, {}, "head_count_kv is 3, which does not divide 4"),
    "no kv heads": ("qwen2", {"qwen2.attention.head_count_kv": 0}, {}, "head_count_kv is 0"),
    "no heads": ("qwen3", {"qwen3.attention.head_count": 0}, {}, "head_count is 0"),
    "heads by layer": ("qwen3", {"qwen3.attention.head_count_kv": [2, 2]}, {}, r"head_count_kv is \[2, 2\]"),
    "layers": ("qwen2", {"qwen2.block_count": 4_000_000_000}, {}, "block_count is 4000000000, of"),
    "eps": ("qwen2", {"qwen2.attention.layer_norm_rms_epsilon": math.nan}, {}, "rms_epsilon is nan"),
    "theta": ("qwen2", {"qwen2.rope.freq_base": math.inf}, {}, "freq_base is inf"),
    "values": ("qwen3", {"qwen3.attention.value_length": 64}, {}, "value_length is not its key_length"),
    "rotation": ("qwen2", {"qwen2.rope.dimension_count": 8}, {}, "partial rotation"),
    "too much rotation": ("phi3", {"phi3.rope.dimension_count": 18}, {}, "dimension_count is 18"),
    "odd rotation": ("phi3", {"phi3.rope.dimension_count": 11}, {}, "dimension_count is 11"),
    "scaling": ("qwen2", {"qwen2.rope.scaling.type": "dynamic"}, {}, "'dynamic' is not known; known: none, linear"),
    "olmo 3": ("olmo2", {"olmo2.attention.sliding_window": 9}, {}, "OLMo 3"),
    "no logit scale": ("cohere2", {"cohere2.logit_scale": None}, {}, "no cohere2.logit_scale"),
    "no factor": ("qwen2", {"qwen2.rope.scaling.type": "yarn"}, {}, "no qwen2.rope.scaling.factor"),
    "factor": ("qwen2, yarn", {"qwen2.rope.scaling.factor": 0.0}, {}, "scaling.factor is 0.0"),
    "context": ("qwen2, yarn", {"qwen2.rope.scaling.original_context_length": 0}, {}, "original_context_length is 0"),
    "yarn's variant": ("qwen2, yarn", {"qwen2.rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier is 0"),
    "no divisors": ("phi3", {"phi3.rope.scaling.type": "longrope"}, {}, "rope_factors_short.weight is missing"),
    "divisors": (
        "phi3, longrope", {}, {"rope_factors_long.weight": np.ones(5, np.float32)}, r"factors_long.weight has shape"
    ),
    "a divisor": (
        "phi3, longrope", {}, {"rope_factors_short.weight": np.zeros(6, np.float32)}, "rope_factors_short.weight is 0.0"
    ),
    "llama3's divisors": ("qwen2", {}, {"rope_freqs.weight": np.ones(5, np.float32)}, "rope_freqs.weight has shape"),
    "bias": ("qwen2", {}, {"model.layers.0.self_attn.o_proj.bias": np.ones(HIDDEN, np.float32)}, "has no place"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused_by_name(case: str, tmp_path: Path) -> None:
    written, changes, tensors, message = DAMAGED[case]
    path = write(tmp_path, written, changes=changes, tensors=tensors)
    with pytest.raises(ModelError, match=message) as caught:
        convert(path, tmp_path / "out")
    assert str(path) in str(caught.value)


def test_biases_of_qwen2_must_be_there(tmp_path: Path) -> None:
    model = random_model(CASES["qwen2"][0])
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias = None
    with pytest.raises(ModelError, match=r"blk\.0\.attn_k\.bias is missing"):
        convert(write(tmp_path, "qwen2", model), tmp_path / "out")
