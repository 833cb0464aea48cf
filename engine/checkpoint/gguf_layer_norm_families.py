"""config.json of llama.cpp's architectures with LayerNorm; see gguf_families.py."""

from collections.abc import Callable
from typing import Any

from .gguf_fields import partial_rotary_factor, read_number, read_size
from .gguf_file import GgufFile


def _command_r(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "hidden_act": "silu",
        "logit_scale": read_number(gguf, "logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in gguf.tensors,
    }


def _cohere2(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "hidden_act": "silu",
        "logit_scale": read_number(gguf, "logit_scale"),
        "sliding_window": read_size(gguf, "attention.sliding_window"),
        "sliding_window_pattern": 4,
    }


def _phi2(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "hidden_act": "gelu_new",
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "qk_layernorm": False,
        "pad_token_id": None,
    }


def _stablelm(gguf: GgufFile) -> dict[str, Any]:
    """Files say of some models that attention and MLP are side by side that have them one after the other."""
    return {
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "hidden_act": "silu",
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "use_qkv_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in gguf.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in gguf.tensors,
    }


def _starcoder2(gguf: GgufFile) -> dict[str, Any]:
    """The window of the released models is not in their files."""
    return {
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "sliding_window": gguf.get("starcoder2.attention.sliding_window", 0) or None,
    }


def _gptneox(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "attention_bias": "blk.0.attn_qkv.bias" in gguf.tensors,
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "use_parallel_residual": gguf.get("gptneox.use_parallel_residual", True),
    }


def _falcon(gguf: GgufFile) -> dict[str, Any]:
    kv_heads = read_size(gguf, "attention.head_count_kv", 1)
    return {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "activation": "gelu",
        "ffn_hidden_size": read_size(gguf, "feed_forward_length"),
        "alibi": False,
        "bias": False,
        "parallel_attn": True,
        "multi_query": True,
        "new_decoder_architecture": kv_heads > 1,
        "num_kv_heads": kv_heads,
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in gguf.tensors else 1,
    }


def _gpt2(gguf: GgufFile) -> dict[str, Any]:
    return _named_as_gpt2(gguf) | {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
    }


def _starcoder(gguf: GgufFile) -> dict[str, Any]:
    return _named_as_gpt2(gguf) | {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "activation_function": "gelu_pytorch_tanh",
        "multi_query": read_size(gguf, "attention.head_count_kv", 1) == 1,
    }


def _named_as_gpt2(gguf: GgufFile) -> dict[str, Any]:
    return {
        "n_embd": read_size(gguf, "embedding_length"),
        "n_layer": read_size(gguf, "block_count"),
        "n_head": read_size(gguf, "attention.head_count"),
        "n_inner": read_size(gguf, "feed_forward_length"),
        "n_positions": read_size(gguf, "context_length"),
    }


def _nemotron(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["NemotronForCausalLM"],
        "model_type": "nemotron",
        "hidden_act": "relu2",
        "partial_rotary_factor": partial_rotary_factor(gguf),
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _olmo(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        "hidden_act": "silu",
        "clip_qkv": gguf.get("olmo.attention.clamp_kqv", 0.0) or None,
    }


FAMILIES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "command-r": _command_r,
    "cohere2": _cohere2,
    "phi2": _phi2,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "gptneox": _gptneox,
    "falcon": _falcon,
    "nemotron": _nemotron,
    "olmo": _olmo,
    "gpt2": _gpt2,
    "starcoder": _starcoder,
}
# What config.json calls the eps of their norms.
EPS_NAMES = {
    **dict.fromkeys(FAMILIES, "layer_norm_eps"),
    "starcoder2": "norm_epsilon",
    "nemotron": "norm_eps",
    **dict.fromkeys(("falcon", "gpt2", "starcoder"), "layer_norm_epsilon"),
}
