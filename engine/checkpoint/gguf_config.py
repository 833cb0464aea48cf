"""Metadata of a GGUF -> config.json and generation_config.json."""

from typing import Any

from . import gguf_families, gguf_layer_norm_families, gguf_mixture_families
from .gguf_fields import read_head_dim, read_number, read_rotated, read_size
from .gguf_file import GgufFile
from .gguf_layer_norm_families import EPS_NAMES
from .gguf_rope import rope_scaling
from .gguf_tokenizer import CONTROL, special_id, token_kinds

ARCHITECTURES = gguf_families.FAMILIES | gguf_mixture_families.FAMILIES | gguf_layer_norm_families.FAMILIES
_ALIBI = "ALiBi, a bias by distance, is in no attention kernel here"
# Why others are not read.
REFUSED = {
    **dict.fromkeys(("bloom", "mpt", "jais", "refact"), _ALIBI),
    "deepseek2": "latent attention (MLA), whose cache is one vector a token, has no kernel here",
    **dict.fromkeys(("mamba", "mamba2", "rwkv6", "rwkv7"), "a state-space model: there is no attention in it"),
    "phimoe": "the file lacks the factors of its rotation (short_mscale); take the model in Hugging Face format",
}
MIXTURES = ("llama", *gguf_mixture_families.FAMILIES)
# End a turn where they are control tokens, beside the ids in the metadata: those that llama.cpp knows.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eom_id|>", "<|endoftext|>")
HARMONY_ENDS, HARMONY_MESSAGE_END = ("<|return|>", "<|call|>"), "<|end|>"  # GPT-OSS's: a turn has several messages


def model_config(gguf: GgufFile) -> dict[str, Any]:
    """config.json of a model of a known architecture. Raises ModelError for another one or an unknown variant."""
    architecture = gguf.architecture
    if architecture in REFUSED:
        raise gguf.error(f"architecture {architecture!r}: {REFUSED[architecture]}")
    if architecture not in ARCHITECTURES:
        raise gguf.error(f"architecture {architecture!r} cannot be converted; known: {', '.join(ARCHITECTURES)}")
    if gguf.get(f"{architecture}.expert_count", 0) > 0 and architecture not in MIXTURES:
        raise gguf.error(f"a mixture of experts of architecture {architecture!r}, which cannot be converted")
    config = _common(gguf) | ARCHITECTURES[architecture](gguf) | token_ids(gguf)
    if architecture == "falcon":  # transformers computes it, and takes no other
        del config["head_dim"]
    return config


def _common(gguf: GgufFile) -> dict[str, Any]:
    """What is read alike whatever the architecture."""
    name = gguf.architecture
    heads, head_dim = read_size(gguf, "attention.head_count"), read_head_dim(gguf)
    kv_heads = read_size(gguf, "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise gguf.error(f"{name}.attention.head_count_kv is {kv_heads}, which does not divide {heads}")
    layers = read_size(gguf, "block_count")
    if layers > len(gguf.tensors):
        raise gguf.error(f"{name}.block_count is {layers}, of {len(gguf.tensors)} tensors in all")
    # The embedding's rows, not the length of the token list, are what the tensors have.
    vocab = gguf.shape("token_embd.weight")[0] if "token_embd.weight" in gguf.tensors else 0
    theta = read_number(gguf, "rope.freq_base", 10000.0)
    return {
        "vocab_size": vocab or gguf.get(f"{name}.vocab_size", 0),
        "hidden_size": read_size(gguf, "embedding_length"),
        "intermediate_size": read_size(gguf, "feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": read_size(gguf, "context_length"),
        **_eps(gguf),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(gguf, theta, read_rotated(gguf)),
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "bfloat16",
    }


def _eps(gguf: GgufFile) -> dict[str, float]:
    if gguf.architecture in EPS_NAMES:
        return {EPS_NAMES[gguf.architecture]: read_number(gguf, "attention.layer_norm_epsilon")}
    return {"rms_norm_eps": read_number(gguf, "attention.layer_norm_rms_epsilon")}


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
