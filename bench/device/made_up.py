"""A model directory of any size with random weights, as the server reads one: for who has a GPU and no network."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

_NOISE_BYTES = 1 << 26  # of random weights, written again and again: what they are does not matter to speed
_STD = 0.02


def write_llama(directory: Path, config: Mapping[str, object]) -> int:
    """Write a Llama in bfloat16 with the shapes of ``config`` (its config.json), and a tokenizer for all its ids.

    Returns the bytes of its weights.
    """
    (directory / "config.json").write_text(json.dumps(dict(config)))
    _write_tokenizer(directory, _size(config, "vocab_size"))
    return _write_weights(directory / "model.safetensors", _shapes(config))


def weight_bytes(config: Mapping[str, object]) -> int:
    """What ``write_llama`` would write of weights."""
    return sum(2 * torch.Size(shape).numel() for shape in _shapes(config).values())


def _size(config: Mapping[str, object], name: str) -> int:
    value = config[name]
    assert isinstance(value, int)
    return value


def _shapes(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    hidden, width, vocab, layers, heads, kv_heads, dim = (
        _size(config, name)
        for name in (
            "hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim",
        )
    )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (heads * dim, hidden),
            f"{layer}.self_attn.k_proj.weight": (kv_heads * dim, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv_heads * dim, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, heads * dim),
            f"{layer}.mlp.gate_proj.weight": (width, hidden),
            f"{layer}.mlp.up_proj.weight": (width, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, width),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The format of safetensors: length of the header, the header, the data; written by hand, in pieces."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    noise = (torch.randn(_NOISE_BYTES // 2, generator=torch.Generator().manual_seed(0)) * _STD).bfloat16()
    piece = noise.view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end, _NOISE_BYTES):
            file.write(piece[: min(_NOISE_BYTES, end - start)])
    return end


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Bytes, and a made-up word for each id beyond them: whatever is sampled is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())[:vocab_size]
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    vocab |= {f"w{token_id}": token_id for token_id in range(len(vocab), vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
