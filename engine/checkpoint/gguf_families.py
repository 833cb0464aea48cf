"""config.json of each of llama.cpp's architectures, beside what gguf_config.py reads alike for all."""

import math
from collections.abc import Callable
from typing import Any

from .gguf_fields import partial_rotary_factor, read_head_dim, read_number, read_size
from .gguf_file import GgufFile
from .gguf_rope import original_positions

PHI3_4K_LAYERS, PHI3_4K_POSITIONS, PHI3_4K_WINDOW = (32, 40), 4096, 2047
GEMMA2_27B_LAYERS, GEMMA3_27B_LAYERS = 46, 62


def _llama(gguf: GgufFile) -> dict[str, Any]:
    """Llama, Mistral and Mixtral, which llama.cpp gives the same name."""
    if gguf.get("llama.expert_count", 0) > 0:
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_act": "silu",
            "num_local_experts": read_size(gguf, "expert_count"),
            "num_experts_per_tok": read_size(gguf, "expert_used_count"),
            "sliding_window": gguf.get("llama.attention.sliding_window", 0) or None,
        }
    window = gguf.get("llama.attention.sliding_window", 0)
    if window > 0:
        return _mistral() | {"sliding_window": window, "attention_bias": False}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _mistral() -> dict[str, Any]:
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu"}


def _qwen2(_: GgufFile) -> dict[str, Any]:
    # The biases on Q, K and V are the architecture's; attention_bias would want one on the output as well.
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _qwen3(_: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "use_sliding_window": False,
    }


def _phi3(gguf: GgufFile) -> dict[str, Any]:
    positions, layers = read_size(gguf, "context_length"), read_size(gguf, "block_count")
    # Files of mid-2024 do not name the window of Phi-3's 4k models; llama.cpp fills it in by their size.
    unsaid = PHI3_4K_WINDOW if positions == PHI3_4K_POSITIONS and layers in PHI3_4K_LAYERS else 0
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "attention_bias": False,
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "original_max_position_embeddings": original_positions(gguf),
        "sliding_window": gguf.get("phi3.attention.sliding_window", unsaid) or None,
        "pad_token_id": None,
    }


def _gemma3(gguf: GgufFile) -> dict[str, Any]:
    """What llama.cpp knows of Gemma 3 without the file's saying so is written out here."""
    heads, layers = gguf.require("gemma3.attention.head_count", int), gguf.require("gemma3.block_count", int)
    hidden = gguf.require("gemma3.embedding_length", int)
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": gguf.require("gemma3.attention.sliding_window", int),
        "sliding_window_pattern": gguf.get("gemma3.attention.sliding_window_pattern", 6),
        "rope_local_base_freq": read_number(gguf, "rope.freq_base_swa", 10000.0),
        # The scale of attention is that of a head's size, but for the 27B model.
        "query_pre_attn_scalar": hidden // heads
        if layers == GEMMA3_27B_LAYERS
        else gguf.get("gemma3.attention.key_length", hidden // heads),
        "attn_logit_softcapping": gguf.get("gemma3.attn_logit_softcapping", 0.0) or None,
        "final_logit_softcapping": gguf.get("gemma3.final_logit_softcapping", 0.0) or None,
    }


def _gemma(_: GgufFile) -> dict[str, Any]:
    return {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}


def _gemma2(gguf: GgufFile) -> dict[str, Any]:
    heads, hidden = read_size(gguf, "attention.head_count"), read_size(gguf, "embedding_length")
    layers = read_size(gguf, "block_count")
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": gguf.get("gemma2.attention.sliding_window", 4096),
        "query_pre_attn_scalar": hidden // heads if layers == GEMMA2_27B_LAYERS else read_head_dim(gguf),
        "attn_logit_softcapping": read_number(gguf, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": read_number(gguf, "final_logit_softcapping", 30.0),
    }


def granite(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "hidden_act": "silu",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "attention_multiplier": read_number(gguf, "attention.scale", read_head_dim(gguf) ** -0.5),
        "embedding_multiplier": read_number(gguf, "embedding_scale", 1.0),
        "residual_multiplier": read_number(gguf, "residual_scale", 1.0),
        "logits_scaling": read_number(gguf, "logit_scale", 1.0),
    }


def _smollm3(gguf: GgufFile) -> dict[str, Any]:
    """Which layers have no rotation is not in the file: llama.cpp counts them, too."""
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "hidden_act": "silu",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "pad_token_id": None,
    }


def _olmo2(gguf: GgufFile) -> dict[str, Any]:
    if gguf.get("olmo2.attention.sliding_window", 0) > 0:
        raise gguf.error("OLMo 3, whose layers with a window llama.cpp does not name in a way that is known here")
    return {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_act": "silu", "pad_token_id": None}


def _glm4(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "hidden_act": "silu",
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "pad_token_id": None,
    }


def _seed_oss(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["SeedOssForCausalLM"],
        "model_type": "seed_oss",
        "hidden_act": "silu",
        "attention_out_bias": "blk.0.attn_output.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _arcee(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["ArceeForCausalLM"],
        "model_type": "arcee",
        "hidden_act": "relu2",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _apertus(gguf: GgufFile) -> dict[str, Any]:
    for key, usual in (("xielu.beta", 0.5), ("xielu.eps", -1e-6)):
        if not all(math.isclose(value, usual, rel_tol=0.01) for value in gguf.array(key, float)):
            raise gguf.error(f"{key} is not {usual}: this variant of the activation is not known here")
    return {"architectures": ["ApertusForCausalLM"], "model_type": "apertus", "hidden_act": "xielu"}


def _ernie4_5(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Ernie4_5ForCausalLM"],
        "model_type": "ernie4_5",
        "hidden_act": "silu",
        "use_bias": "blk.0.attn_q.bias" in gguf.tensors,
    }


def _exaone4(gguf: GgufFile) -> dict[str, Any]:
    """The 32B model has windows, and then the pattern of its layers, which llama.cpp knows by the number of layers."""
    window = gguf.get("exaone4.attention.sliding_window", 0) or None
    layers = read_size(gguf, "block_count")
    kinds = ["sliding_attention" if window and (i + 1) % 4 else "full_attention" for i in range(layers)]
    return {
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        "hidden_act": "silu",
        "sliding_window": window,
        "sliding_window_pattern": 4 if window else None,
        "layer_types": kinds,
    }


def _hunyuan_dense(_: GgufFile) -> dict[str, Any]:
    """The base of its rotation is stretched already."""
    return {"architectures": ["HunYuanDenseV1ForCausalLM"], "model_type": "hunyuan_v1_dense", "hidden_act": "silu"}


FAMILIES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "granite": granite,
    "smollm3": _smollm3,
    "olmo2": _olmo2,
    "glm4": _glm4,
    "seed_oss": _seed_oss,
    "arcee": _arcee,
    "apertus": _apertus,
    "ernie4_5": _ernie4_5,
    "exaone4": _exaone4,
    "hunyuan-dense": _hunyuan_dense,
}
