"""Metadata of a GGUF -> config.json and generation_config.json."""

import math
from collections.abc import Callable
from typing import Any

from .gguf_file import GgufFile
from .gguf_rope import original_positions, rope_scaling, shortest
from .gguf_tokenizer import CONTROL, special_id, token_kinds

PARTLY_ROTATED = ("phi3", "glm4")
LAYER_NORM = ("command-r", "cohere2")  # in place of RMSNorm
PHI3_4K_LAYERS, PHI3_4K_POSITIONS, PHI3_4K_WINDOW = (32, 40), 4096, 2047
GEMMA2_27B_LAYERS, GEMMA3_27B_LAYERS = 46, 62
MIXTURES = ("llama", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss")
# End a turn where they are control tokens, beside the ids in the metadata: those that llama.cpp knows.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eom_id|>", "<|endoftext|>")
HARMONY_ENDS, HARMONY_MESSAGE_END = ("<|return|>", "<|call|>"), "<|end|>"  # GPT-OSS's: a turn has several messages


def model_config(gguf: GgufFile) -> dict[str, Any]:
    """config.json of a model of a known architecture. Raises ModelError for another one or an unknown variant."""
    architecture = gguf.architecture
    if architecture not in ARCHITECTURES:
        raise gguf.error(f"architecture {architecture!r} cannot be converted; known: {', '.join(ARCHITECTURES)}")
    if gguf.get(f"{architecture}.expert_count", 0) > 0 and architecture not in MIXTURES:
        raise gguf.error(f"a mixture of experts of architecture {architecture!r}, which cannot be converted")
    return _common(gguf) | ARCHITECTURES[architecture](gguf) | token_ids(gguf)


def _common(gguf: GgufFile) -> dict[str, Any]:
    """What is read alike whatever the architecture."""
    name = gguf.architecture
    heads, head_dim = _size(gguf, "attention.head_count"), _head_dim(gguf)
    kv_heads = _size(gguf, "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise gguf.error(f"{name}.attention.head_count_kv is {kv_heads}, which does not divide {heads}")
    layers = _size(gguf, "block_count")
    if layers > len(gguf.tensors):
        raise gguf.error(f"{name}.block_count is {layers}, of {len(gguf.tensors)} tensors in all")
    # The embedding's rows, not the length of the token list, are what the tensors have.
    vocab = gguf.shape("token_embd.weight")[0] if "token_embd.weight" in gguf.tensors else 0
    theta = _number(gguf, "rope.freq_base", 10000.0)
    return {
        "vocab_size": vocab or gguf.get(f"{name}.vocab_size", 0),
        "hidden_size": _size(gguf, "embedding_length"),
        "intermediate_size": _size(gguf, "feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": _size(gguf, "context_length"),
        **_eps(gguf),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(gguf, theta, _rotated(gguf)),
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "bfloat16",
    }


def _eps(gguf: GgufFile) -> dict[str, float]:
    if gguf.architecture in LAYER_NORM:
        return {"layer_norm_eps": _number(gguf, "attention.layer_norm_epsilon")}
    return {"rms_norm_eps": _number(gguf, "attention.layer_norm_rms_epsilon")}


def _size(gguf: GgufFile, key: str, default: int | None = None) -> int:
    """A count of at least 1 under the architecture's name."""
    key = f"{gguf.architecture}.{key}"
    value = gguf.require(key, int) if default is None else gguf.get(key, default)
    if value < 1:
        raise gguf.error(f"{key} is {value}. The file is damaged: get or convert it again")
    return value


def _number(gguf: GgufFile, key: str, default: float | None = None) -> float:
    """A number above 0 under the architecture's name, as its shortest decimal."""
    key = f"{gguf.architecture}.{key}"
    return shortest(gguf, key, gguf.require(key, float) if default is None else gguf.get(key, default))


def _head_dim(gguf: GgufFile) -> int:
    name, heads, hidden = gguf.architecture, _size(gguf, "attention.head_count"), _size(gguf, "embedding_length")
    if f"{name}.attention.key_length" not in gguf and hidden % heads:
        raise gguf.error(f"{name}.attention.head_count is {heads}, which does not divide {hidden}")
    head_dim = _size(gguf, "attention.key_length", hidden // heads)
    if _size(gguf, "attention.value_length", head_dim) != head_dim:
        raise gguf.error(f"{name}.attention.value_length is not its key_length, which is not known here")
    return head_dim


def _rotated(gguf: GgufFile) -> int:
    """How many dims of a head the rotary embedding turns."""
    name, head_dim = gguf.architecture, _head_dim(gguf)
    rotated = _size(gguf, "rope.dimension_count", head_dim)
    if rotated != head_dim and name not in PARTLY_ROTATED:
        raise gguf.error(f"{name}.rope.dimension_count is not the head dimension; partial rotation is not known here")
    if rotated % 2 or rotated > head_dim:
        raise gguf.error(f"{name}.rope.dimension_count is {rotated}, which is odd or more than a head has")
    return rotated


def _llama(gguf: GgufFile) -> dict[str, Any]:
    """Llama, Mistral and Mixtral, which llama.cpp gives the same name."""
    if gguf.get("llama.expert_count", 0) > 0:
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_act": "silu",
            "num_local_experts": _size(gguf, "expert_count"),
            "num_experts_per_tok": _size(gguf, "expert_used_count"),
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
        "num_experts": _size(gguf, "expert_count"),
        "num_experts_per_tok": _size(gguf, "expert_used_count"),
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
        "num_experts": _size(gguf, "expert_count"),
        "num_experts_per_tok": _size(gguf, "expert_used_count"),
        "moe_intermediate_size": gguf.shape(experts)[1] if len(gguf.shape(experts)) == 3 else 0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gpt_oss(gguf: GgufFile) -> dict[str, Any]:
    """Which layers have a window is not in the file; how the ends of YaRN's ramp are rounded isn't, either."""
    scaling = rope_scaling(gguf, _number(gguf, "rope.freq_base"), _rotated(gguf))
    if scaling is not None and scaling["rope_type"] == "yarn":
        scaling["truncate"] = False
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "intermediate_size": _size(gguf, "expert_feed_forward_length"),
        "num_experts": _size(gguf, "expert_count"),
        "num_experts_per_tok": _size(gguf, "expert_used_count"),
        "sliding_window": _size(gguf, "attention.sliding_window"),
        "rope_scaling": scaling,
    }


def _phi3(gguf: GgufFile) -> dict[str, Any]:
    positions, layers = _size(gguf, "context_length"), _size(gguf, "block_count")
    # Files of mid-2024 do not name the window of Phi-3's 4k models; llama.cpp fills it in by their size.
    unsaid = PHI3_4K_WINDOW if positions == PHI3_4K_POSITIONS and layers in PHI3_4K_LAYERS else 0
    head_dim, rotated = _head_dim(gguf), _rotated(gguf)
    partial = rotated / head_dim
    if int(head_dim * partial) != rotated:  # as its readers compute it
        partial = math.nextafter(partial, 1.0)
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "attention_bias": False,
        "partial_rotary_factor": partial,
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
        "rope_local_base_freq": _number(gguf, "rope.freq_base_swa", 10000.0),
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
    heads, hidden = _size(gguf, "attention.head_count"), _size(gguf, "embedding_length")
    layers = _size(gguf, "block_count")
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": gguf.get("gemma2.attention.sliding_window", 4096),
        "query_pre_attn_scalar": hidden // heads if layers == GEMMA2_27B_LAYERS else _head_dim(gguf),
        "attn_logit_softcapping": _number(gguf, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _number(gguf, "final_logit_softcapping", 30.0),
    }


def _granite(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "hidden_act": "silu",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "attention_multiplier": _number(gguf, "attention.scale", _head_dim(gguf) ** -0.5),
        "embedding_multiplier": _number(gguf, "embedding_scale", 1.0),
        "residual_multiplier": _number(gguf, "residual_scale", 1.0),
        "logits_scaling": _number(gguf, "logit_scale", 1.0),
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
        "partial_rotary_factor": _rotated(gguf) / _head_dim(gguf),
        "pad_token_id": None,
    }


def _command_r(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "hidden_act": "silu",
        "logit_scale": _number(gguf, "logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in gguf.tensors,
    }


def _cohere2(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "hidden_act": "silu",
        "logit_scale": _number(gguf, "logit_scale"),
        "sliding_window": _size(gguf, "attention.sliding_window"),
        "sliding_window_pattern": 4,
    }


ARCHITECTURES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
    "olmoe": _olmoe,
    "gpt-oss": _gpt_oss,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "granite": _granite,
    "smollm3": _smollm3,
    "olmo2": _olmo2,
    "glm4": _glm4,
    "command-r": _command_r,
    "cohere2": _cohere2,
}


def token_ids(gguf: GgufFile) -> dict[str, Any]:
    """bos, eos and pad ids as config.json and generation_config.json have them; absent ones are left out."""
    ends = []
    for name in ("eos", "eot", "eom"):  # any of them ends a turn
        token = special_id(gguf, name)
        if token >= 0:
            ends.append(token)
    kinds = enumerate(zip(gguf.tokens, token_kinds(gguf), strict=True))
    controls = {token: i for i, (token, kind) in kinds if kind == CONTROL}
    ends += [controls[token] for token in TURN_ENDS if token in controls]
    if all(token in controls for token in HARMONY_ENDS):
        ends += [controls[token] for token in HARMONY_ENDS]
        ends = [token for token in ends if token != controls.get(HARMONY_MESSAGE_END)]
    ends = list(dict.fromkeys(ends))
    ids: dict[str, Any] = {}
    if ends:
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        token = special_id(gguf, key)
        if token >= 0:
            ids[name] = token
    return ids
