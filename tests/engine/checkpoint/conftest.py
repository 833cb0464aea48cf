"""Small GGUF files written with llama.cpp's own package, whole or broken on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.resolve import find_default_gguf

HIDDEN, WIDTH, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
HEAD_DIM = HIDDEN // HEADS


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable characters that stand for the bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġ 1", "1 2", "12 3"]
TOKENS = ["<|end|>", "<|start|>", *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), "<user>"]
TOKEN_TYPES = [3, 3] + [1] * (len(TOKENS) - 3) + [4]


def llama_tensors(seed: int = 0, *, tied: bool = True) -> dict[str, np.ndarray]:
    """Tensors of a two-layer llama by Hugging Face's names, fp32 [out, in]."""
    draw = np.random.default_rng(seed).standard_normal
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{layer}.post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}.mlp.gate_proj.weight": (WIDTH, HIDDEN),
            f"{layer}.mlp.up_proj.weight": (WIDTH, HIDDEN),
            f"{layer}.mlp.down_proj.weight": (HIDDEN, WIDTH),
        }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (len(TOKENS), HIDDEN)
    return {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}


PERMUTED = tuple(gguf.MODEL_ARCH[name] for name in ("LLAMA", "GRANITE", "GRANITE_MOE", "SMOLLM3", "ARCEE", "OLMO"))


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py does to Q and K."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def default_metadata() -> dict[str, Any]:
    return {
        "llama.block_count": LAYERS,
        "llama.context_length": 256,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TOKEN_TYPES,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
    }


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, Any],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
) -> Path:
    """Write tensors under llama.cpp's names; matrices as ``kind``, the rest as fp32. None in metadata: left out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    model = known.get(architecture, gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(model, 32)  # layers, at most
    for name, values in tensors.items():
        stem, _, suffix = name.rpartition(".")
        there = names.get_name(stem)
        if model in PERMUTED and (".q_proj." in name or ".k_proj." in name):
            values = permute(values, HEADS if ".q_proj." in name else KV_HEADS)
        stored = kind if values.ndim >= 2 and suffix == "weight" else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            f"{there}.{suffix}" if there else name, gguf.quants.quantize(values, stored), raw_dtype=stored
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


WriteGguf = Callable[..., Path]


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> WriteGguf:
    """Writes tmp_path/tiny.gguf: the default metadata and tensors, with the changes given."""

    def write(
        metadata: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray] | None = None,
        kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
        architecture: str = "llama",
    ) -> Path:
        return write_gguf(
            tmp_path / "tiny.gguf",
            llama_tensors() if tensors is None else tensors,
            default_metadata() | (metadata or {}),
            kind,
            architecture,
        )

    return write


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    """The default model as its package ships it."""
    return find_default_gguf()


@pytest.fixture(scope="session")
def default_model(default_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model converted, not from the user's cache."""
    directory = tmp_path_factory.mktemp("default") / "model"
    convert(default_gguf, directory)
    return directory
