"""Metadata of a GGUF -> config.json and generation_config.json."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gguf.quants import dequantize

from .gguf_file import GgufFile
from .gguf_tokenizer import CONTROL

# Llama 3.1 and later: the parameters of llama.cpp's rope_freqs tensor, of which it keeps the result only.
LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR, LLAMA3_ORIGINAL_POSITIONS = 1.0, 4.0, 8192
GEMMA3_27B_LAYERS = 62
# End a turn where they are control tokens, beside the ids in the metadata: those that llama.cpp knows.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eom_id|>", "<|endoftext|>")


def model_config(gguf: GgufFile) -> dict[str, Any]:
    """config.json of a model of a known architecture. Raises ModelError for another one or an unknown variant."""
    architecture = gguf.architecture
    if architecture not in ARCHITECTURES:
        raise gguf.error(f"architecture {architecture!r} cannot be converted; known: {', '.join(ARCHITECTURES)}")
    if gguf.get(f"{architecture}.expert_count", 0) > 0:
        raise gguf.error("a mixture of experts, which cannot be converted")
    return _common(gguf) | ARCHITECTURES[architecture](gguf) | token_ids(gguf)


def _common(gguf: GgufFile) -> dict[str, Any]:
    """What is read alike whatever the architecture."""
    name = gguf.architecture
    heads = gguf.require(f"{name}.attention.head_count", int)
    hidden = gguf.require(f"{name}.embedding_length", int)
    if heads < 1 or hidden % heads:
        raise gguf.error(f"{name}.attention.head_count is {heads}, which does not divide {hidden}")
    head_dim = gguf.get(f"{name}.attention.key_length", hidden // heads)
    if gguf.get(f"{name}.rope.dimension_count", head_dim) != head_dim:
        raise gguf.error(f"{name}.rope.dimension_count is not the head dimension; partial rotation is not known here")
    # The embedding's rows, not the length of the token list, are what the tensors have.
    vocab = gguf.shape("token_embd.weight")[0] if "token_embd.weight" in gguf.tensors else 0
    theta = gguf.get(f"{name}.rope.freq_base", 10000.0)
    return {
        "vocab_size": vocab or gguf.get(f"{name}.vocab_size", 0),
        "hidden_size": hidden,
        "intermediate_size": gguf.require(f"{name}.feed_forward_length", int),
        "num_hidden_layers": gguf.require(f"{name}.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.get(f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": gguf.require(f"{name}.context_length", int),
        "rms_norm_eps": _short(gguf.require(f"{name}.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _short(theta),
        "rope_scaling": _rope_scaling(gguf, theta, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "bfloat16",
    }


def _llama(gguf: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
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
        "rope_local_base_freq": _short(gguf.get("gemma3.rope.freq_base_swa", 10000.0)),
        # The scale of attention is that of a head's size, but for the 27B model.
        "query_pre_attn_scalar": hidden // heads
        if layers == GEMMA3_27B_LAYERS
        else gguf.get("gemma3.attention.key_length", hidden // heads),
        "attn_logit_softcapping": gguf.get("gemma3.attn_logit_softcapping", 0.0) or None,
        "final_logit_softcapping": gguf.get("gemma3.final_logit_softcapping", 0.0) or None,
    }


ARCHITECTURES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {"llama": _llama, "gemma3": _gemma3}


def token_ids(gguf: GgufFile) -> dict[str, Any]:
    """bos, eos and pad ids as config.json and generation_config.json have them; absent ones are left out."""
    ends = []
    for name in ("eos", "eot", "eom"):  # any of them ends a turn
        token = gguf.get(f"tokenizer.ggml.{name}_token_id", -1)
        if token >= 0:
            ends.append(token)
    kinds = gguf.array("tokenizer.ggml.token_type")
    controls = {token: i for i, (token, kind) in enumerate(zip(gguf.tokens, kinds, strict=False)) if kind == CONTROL}
    ends += [controls[token] for token in TURN_ENDS if token in controls]
    ends = list(dict.fromkeys(ends))
    ids: dict[str, Any] = {}
    if ends:
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        token = gguf.get(f"tokenizer.ggml.{key}", -1)
        if token >= 0:
            ids[name] = token
    return ids


def _rope_scaling(gguf: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    if "rope_freqs.weight" in gguf.tensors:
        return _llama3_scaling(gguf, theta, head_dim)
    rope = f"{gguf.architecture}.rope"
    kind = gguf.get(f"{rope}.scaling.type", "none")
    factor = gguf.get(f"{rope}.scaling.factor", gguf.get(f"{rope}.scale_linear", 1.0))
    if kind == "linear" or (kind == "none" and f"{rope}.scale_linear" in gguf and factor != 1.0):
        return {"rope_type": "linear", "factor": _short(factor)}
    if kind != "none":
        raise gguf.error(f"RoPE scaling {kind!r} is not known; known: none, linear, llama3")
    return None


def _llama3_scaling(gguf: GgufFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Find the parameters that give the stored divisors, [head_dim / 2]; the largest one is the factor itself."""
    rows, kind = gguf.rows("rope_freqs.weight")
    stored = dequantize(rows, kind).reshape(-1).astype(np.float64)
    factor = float(stored.max())
    if not np.allclose(stored, llama3_divisors(factor, theta, head_dim), rtol=1e-4):
        raise gguf.error("the rope_freqs tensor is none of Llama 3's: this RoPE scaling is not known here")
    return {
        "rope_type": "llama3",
        "factor": _short(factor),
        "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
        "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": LLAMA3_ORIGINAL_POSITIONS,
    }


def llama3_divisors(factor: float, theta: float, head_dim: int) -> np.ndarray:
    """By what Llama 3.1's scaling divides each rotary frequency, [head_dim / 2]; long waves by ``factor``."""
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low = LLAMA3_ORIGINAL_POSITIONS / LLAMA3_LOW_FREQ_FACTOR
    high = LLAMA3_ORIGINAL_POSITIONS / LLAMA3_HIGH_FREQ_FACTOR
    smooth = (LLAMA3_ORIGINAL_POSITIONS / wavelength - LLAMA3_LOW_FREQ_FACTOR) / (
        LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR
    )
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < high, 1.0, np.where(wavelength > low, factor, between))


def _short(value: float) -> float:
    """An fp32 as the shortest decimal that rounds to it: 9.999999747378752e-06 was meant as 1e-05."""
    return float(str(np.float32(value)))
