"""A small random Gemma 3, written as llama.cpp's converter writes it, comes back as it was."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3TextConfig

from headwater.engine.checkpoint import gguf_weights
from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.checkpoint.gguf_weights import TensorPlan, write_safetensors
from headwater.engine.checkpoint.safetensors_dir import Checkpoint, open_checkpoint

from .conftest import write_gguf

# An alphabet, joins whose scores order them, user-defined pieces, and all bytes for the rest.
USER_DEFINED = ["\n", "\n\n", "▁▁", "▁▁▁", "<b>"]
PIECES = ["▁", "a", "b", "c", "ab", "▁a", "bc", "abc", "▁ab", "<", ">", "/"]
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>"]
TOKENS = [*CONTROL, *USER_DEFINED, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
CONFIG = Gemma3TextConfig(
    vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=7, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=128, sliding_window=16, query_pre_attn_scalar=32,
    initializer_range=0.3,
)  # fmt: skip


def metadata() -> dict[str, Any]:
    return {
        "gemma3.block_count": CONFIG.num_hidden_layers,
        "gemma3.context_length": CONFIG.max_position_embeddings,
        "gemma3.embedding_length": CONFIG.hidden_size,
        "gemma3.feed_forward_length": CONFIG.intermediate_size,
        "gemma3.attention.head_count": CONFIG.num_attention_heads,
        "gemma3.attention.head_count_kv": CONFIG.num_key_value_heads,
        "gemma3.attention.key_length": CONFIG.head_dim,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": CONFIG.sliding_window,
        "gemma3.rope.freq_base": 1000000.0,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [token.replace("▁", " ") if token in USER_DEFINED else token for token in TOKENS],
        "tokenizer.ggml.scores": [-1000.0] * 10 + [0.0] * 256 + [-float(i) for i in range(len(PIECES))],
        "tokenizer.ggml.token_type": [3] * 5 + [4] * 5 + [6] * 256 + [1] * len(PIECES),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": "{{ messages }}",
    }


@pytest.fixture(scope="module")
def model() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


@pytest.fixture(scope="module")
def converted(model: Gemma3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {
        name: tensor.detach().numpy() + (1.0 if name.endswith("norm.weight") else 0.0)
        for name, tensor in model.named_parameters()
    }
    path = tmp_path_factory.mktemp("gemma3") / "tiny.gguf"
    convert(write_gguf(path, tensors, metadata(), architecture="gemma3"), path.parent / "out")
    return path.parent / "out"


def test_weights_and_norms_come_back(model: Gemma3ForCausalLM, converted: Path) -> None:
    checkpoint = open_checkpoint(converted)
    wanted = dict(model.named_parameters())
    assert set(checkpoint) == set(wanted)
    for name, want in wanted.items():
        got = checkpoint.get(name, want.shape)
        # A norm weight near 0 has lost low bits to the 1 that was added.
        torch.testing.assert_close(got.float(), want, rtol=2**-8, atol=1e-6, msg=name)


def test_config_says_what_transformers_needs(converted: Path) -> None:
    got = AutoConfig.from_pretrained(converted)
    assert got.layer_types == CONFIG.layer_types
    assert got.layer_types.count("full_attention") == 1
    same = ["hidden_size", "head_dim", "sliding_window", "query_pre_attn_scalar", "hidden_activation", "rms_norm_eps"]
    assert {key: getattr(got, key) for key in same} == {key: getattr(CONFIG, key) for key in same}
    full, local = got.rope_parameters["full_attention"], got.rope_parameters["sliding_attention"]
    assert (full["rope_theta"], full["rope_type"], full["factor"]) == (1000000.0, "linear", 8.0)
    assert (local["rope_theta"], local["rope_type"]) == (10000.0, "default")
    assert got.tie_word_embeddings
    assert got.eos_token_id == [TOKENS.index("<eos>"), TOKENS.index("<end_of_turn>")]
    assert json.loads((converted / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"


def sentencepiece(text: str) -> list[str]:
    """SentencePiece by its definition: user-defined pieces first, the longest ones; then the best-scored joins."""
    score = {piece: -i for i, piece in enumerate(PIECES)}
    rest, symbols = text.replace(" ", "▁"), []
    while rest:
        whole = max((piece for piece in USER_DEFINED if rest.startswith(piece)), key=len, default=rest[0])
        symbols.append(whole)
        rest = rest[len(whole) :]
    while joins := [
        (-score[a + b], i)
        for i, (a, b) in enumerate(pairwise(symbols))
        if a + b in score and a not in USER_DEFINED and b not in USER_DEFINED
    ]:
        _, i = min(joins)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    known = {*PIECES, *USER_DEFINED}
    return [t for s in symbols for t in ([s] if s in known else [f"<0x{byte:02X}>" for byte in s.encode()])]


@pytest.fixture(scope="module")
def tokenizer(converted: Path) -> Tokenizer:
    return Tokenizer.from_file(str(converted / "tokenizer.json"))


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abc é😀\n", min_size=1, max_size=12))
def test_tokens_are_sentencepieces(tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text)
    if "    " not in text:  # longer than any user-defined run: Hugging Face's merges cut it elsewhere
        assert encoding.tokens == ["<bos>", *sentencepiece(text)]
    assert tokenizer.decode(encoding.ids) == text


def test_markup_is_one_piece(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<b>a</b>\n\n").tokens == ["<bos>", "<b>", "a", "<", "/", "b", ">", "\n\n"]


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "IQ4_XS"])
def test_any_quantisation_is_read_as_its_package_reads_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    blocks = np.random.default_rng(0).integers(1, 60, (5, 512 // block_values * block_bytes), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("x", blocks, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr(gguf_weights, "BLOCK_ELEMENTS", 1024)  # two rows at a time
    path = tmp_path / "x.safetensors"
    write_safetensors(GgufFile(tmp_path / "one.gguf"), [TensorPlan("x", "x", (5, 512))], path)
    want = torch.from_numpy(gguf.quants.dequantize(blocks, stored).astype(np.float32)).to(torch.bfloat16)
    assert want.isfinite().all()
    assert want.float().std() > 0
    assert torch.equal(Checkpoint(tmp_path, {"x": path}).get("x", (5, 512)), want)
