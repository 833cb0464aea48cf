"""config.json of llama.cpp's architectures with experts, beside what gguf_config.py reads alike for all.

What the tensors say is read from them: some files lack the keys.
"""

from collections.abc import Callable
from typing import Any

from gguf.constants import ExpertGatingFuncType

from .gguf_families import granite
from .gguf_fields import partial_rotary_factor, read_number, read_rotated, read_size
from .gguf_file import GgufFile
from .gguf_rope import rope_scaling

LLAMA4_128E = 128  # experts of the Llama 4 that has no QK-norm: llama.cpp knows it by them


def _qwen2moe(gguf: GgufFile) -> dict[str, Any]:
    shared = "blk.0.ffn_up_shexp.weight"
    if shared not in gguf.tensors:
        raise gguf.error(f"tensor {shared} is missing. The file is incomplete: get or convert it again")
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        **_qwen_experts(gguf),
        "shared_expert_intermediate_size": gguf.shape(shared)[0],  # of some files no key has it
        "norm_topk_prob": False,
    }


def _qwen3moe(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **_qwen_experts(gguf),
        "norm_topk_prob": True,
    }


def _olmoe(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "hidden_act": "silu",
        "attention_bias": False,
        "clip_qkv": gguf.get("olmoe.attention.clamp_kqv", 0.0) or None,
        "num_experts": read_size(gguf, "expert_count"),
        "num_experts_per_tok": read_size(gguf, "expert_used_count"),
        "norm_topk_prob": False,
    }


def _qwen_experts(gguf: GgufFile) -> dict[str, Any]:
    """Every layer has them in llama.cpp, which normalises their weights as the architecture does."""
    experts = "blk.0.ffn_up_exps.weight"
    if experts not in gguf.tensors:
        raise gguf.error(f"tensor {experts} is missing. The file is incomplete: get or convert it again")
    return {
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "num_experts": read_size(gguf, "expert_count"),
        "num_experts_per_tok": read_size(gguf, "expert_used_count"),
        "moe_intermediate_size": gguf.shape(experts)[1] if len(gguf.shape(experts)) == 3 else 0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gpt_oss(gguf: GgufFile) -> dict[str, Any]:
    """Which layers have a window is not in the file; how the ends of YaRN's ramp are rounded isn't, either."""
    scaling = rope_scaling(gguf, read_number(gguf, "rope.freq_base"), read_rotated(gguf))
    if scaling is not None and scaling["rope_type"] == "yarn":
        scaling["truncate"] = False
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "intermediate_size": read_size(gguf, "expert_feed_forward_length"),
        "num_experts": read_size(gguf, "expert_count"),
        "num_experts_per_tok": read_size(gguf, "expert_used_count"),
        "sliding_window": read_size(gguf, "attention.sliding_window"),
        "rope_scaling": scaling,
    }


def _slots(gguf: GgufFile) -> dict[str, Any]:
    """How many experts there are, and how many a row goes to, under the names that most have for them."""
    return {
        "num_experts": read_size(gguf, "expert_count"),
        "num_experts_per_tok": read_size(gguf, "expert_used_count"),
    }


def _rows_of(gguf: GgufFile, part: str) -> int:
    """Outputs of a part of the MLP in the last layer, which has experts if any has; 0: it has no such part."""
    name = f"blk.{read_size(gguf, 'block_count') - _unread(gguf) - 1}.{part}.weight"
    return gguf.shape(name)[-2] if name in gguf.tensors and len(gguf.shape(name)) > 1 else 0


def _unread(gguf: GgufFile) -> int:
    """Layers that predict further tokens (MTP)."""
    return gguf.get(f"{gguf.architecture}.nextn_predict_layers", 0)


def _deepseek(gguf: GgufFile) -> dict[str, Any]:
    """Experts as DeepSeek-V3 chooses them."""
    name, width = gguf.architecture, _rows_of(gguf, "ffn_up_exps")
    if gguf.get(f"{name}.expert_gating_func", int(ExpertGatingFuncType.SIGMOID)) != ExpertGatingFuncType.SIGMOID:
        raise gguf.error(f"{name}.expert_gating_func is not that of the architecture")
    return {
        "hidden_act": "silu",
        "num_hidden_layers": read_size(gguf, "block_count") - _unread(gguf),
        "n_routed_experts": read_size(gguf, "expert_count"),
        "num_experts_per_tok": read_size(gguf, "expert_used_count"),
        "moe_intermediate_size": width,
        "n_shared_experts": _rows_of(gguf, "ffn_up_shexp") // max(width, 1),
        "first_k_dense_replace": gguf.get(f"{name}.leading_dense_block_count", 0),
        "routed_scaling_factor": read_number(gguf, "expert_weights_scale", 1.0),
        "norm_topk_prob": gguf.get(f"{name}.expert_weights_norm", True),
    }


def _glm4moe(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        **_deepseek(gguf),
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in gguf.tensors,
        "pad_token_id": None,
    }


def _dots1(gguf: GgufFile) -> dict[str, Any]:
    return {"architectures": ["Dots1ForCausalLM"], "model_type": "dots1", **_deepseek(gguf), "sliding_window": None}


def _minimax_m2(gguf: GgufFile) -> dict[str, Any]:
    experts = _slots(gguf)
    return {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "hidden_act": "silu",
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["num_experts_per_tok"],
        "intermediate_size": _rows_of(gguf, "ffn_up_exps"),
        "rotary_dim": read_rotated(gguf),
    }


def _ernie4_5_moe(gguf: GgufFile) -> dict[str, Any]:
    experts, width = _slots(gguf), _rows_of(gguf, "ffn_up_exps")
    return {
        "architectures": ["Ernie4_5_MoeForCausalLM"],
        "model_type": "ernie4_5_moe",
        "hidden_act": "silu",
        "moe_num_experts": experts["num_experts"],
        "moe_k": experts["num_experts_per_tok"],
        "moe_intermediate_size": width,
        "moe_num_shared_experts": _rows_of(gguf, "ffn_up_shexp") // max(width, 1),
        "moe_layer_start_index": gguf.get("ernie4_5-moe.leading_dense_block_count", 0),
        "moe_layer_interval": read_size(gguf, "interleave_moe_layer_step", 1),
    }


def _granitemoe(gguf: GgufFile) -> dict[str, Any]:
    if _rows_of(gguf, "ffn_up_shexp"):
        raise gguf.error("Granite's mixtures with a shared expert are not read from GGUF: its gate and up are one here")
    experts = _slots(gguf)
    return {
        **granite(gguf),
        "architectures": ["GraniteMoeForCausalLM"],
        "model_type": "granitemoe",
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["num_experts_per_tok"],
    }


def _llama4(gguf: GgufFile) -> dict[str, Any]:
    """Chunks, scaled queries and which layers have no rotation are not in the file: llama.cpp knows them, too."""
    experts = _slots(gguf)
    return {
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "hidden_act": "silu",
        "intermediate_size": _rows_of(gguf, "ffn_up_exps"),
        "intermediate_size_mlp": read_size(gguf, "feed_forward_length"),
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["num_experts_per_tok"],
        "interleave_moe_layer_step": read_size(gguf, "interleave_moe_layer_step", 1),
        "use_qk_norm": experts["num_experts"] != LLAMA4_128E,
    }


FAMILIES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
    "olmoe": _olmoe,
    "gpt-oss": _gpt_oss,
    "glm4moe": _glm4moe,
    "dots1": _dots1,
    "minimax-m2": _minimax_m2,
    "ernie4_5-moe": _ernie4_5_moe,
    "granitemoe": _granitemoe,
    "llama4": _llama4,
}
