"""SentencePiece vocabularies: a trained one, written into a GGUF as llama.cpp does, against transformers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.checkpoint.gguf_tokenizer import build_tokenizer

from .conftest import default_metadata, llama_tensors, write_gguf
from .test_gguf_pre_tokenizers import NASTY

CONTROL = ["<unk>", "<s>", "</s>"]
CHAT = ["<|endoftext|>", "<|user|>", "<|end|>"]


@cache
def pieces() -> list[str]:
    """As SentencePiece orders them: joins as they were found, then single characters."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(NASTY[1:] * 3, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    joins = list(dict.fromkeys("".join(merge) for merge in model["merges"]))
    return joins + [piece for piece in model["vocab"] if len(piece) == 1]


def metadata(**changes: Any) -> dict[str, Any]:
    """``changes``: keys below tokenizer.ggml."""
    found = pieces()
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *found, *CHAT]
    said = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "token_type": [2, 3, 3, *[6] * 256, *[1] * len(found), *[3] * len(CHAT)],
        "scores": [*[0.0] * 259, *(-float(i) for i in range(len(found))), *[-1000.0] * len(CHAT)],
        "merges": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return default_metadata() | {f"tokenizer.ggml.{key}": value for key, value in (said | changes).items()}


def tokenizer_of(directory: Path, said: dict[str, Any]) -> Tokenizer:
    return build_tokenizer(GgufFile(write_gguf(directory / "x.gguf", {}, said)))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """transformers' own reading. As a phi3, for which it writes a space before the text as tokenizer.json does."""
    directory = tmp_path_factory.mktemp("oracle")
    said = {key.replace("llama.", "phi3."): value for key, value in metadata().items()}
    write_gguf(directory / "x.gguf", llama_tensors(), said, architecture="phi3")
    return AutoTokenizer.from_pretrained(directory, gguf_file="x.gguf").backend_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("sp"), metadata())


@pytest.mark.parametrize("text", NASTY[1:])
def test_tokens_are_those_of_transformers(oracle: Tokenizer, tokenizer: Tokenizer, text: str) -> None:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    assert encoding.tokens == oracle.encode(text, add_special_tokens=False).tokens
    assert tokenizer.decode(encoding.ids) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=24))
def test_any_text_gives_the_tokens_of_transformers(oracle: Tokenizer, tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == oracle.encode(text, add_special_tokens=False).ids


def test_without_scores_the_order_of_the_tokens_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """llama.cpp's converter has a tokenizer.json's tokens, and -1000 for each of their scores."""
    count = len(metadata()["tokenizer.ggml.tokens"])
    flat = tokenizer_of(tmp_path, metadata(scores=[-1000.0] * count))
    for text in NASTY[1:]:
        assert flat.encode(text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ({}, (["<s>"], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_eos_token": True}, (["<s>"], ["</s>"])),
        ({"add_bos_token": False, "add_eos_token": True}, ([], ["</s>"])),
        ({"bos_token_id": None, "eos_token_id": None, "add_eos_token": True}, (["<s>"], ["</s>"])),  # as llama.cpp
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(
    said: dict[str, Any], ends: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(tmp_path, metadata(**said))
    first, last = ends
    middle = tokenizer.encode("Hello", add_special_tokens=False).tokens
    assert tokenizer.encode("Hello").tokens == [*first, *middle, *last]
    assert tokenizer.encode("Hello", "Hello").tokens == [*first, *middle, *last] * 2


def test_ids_that_the_file_leaves_out_are_sentencepieces(tmp_path: Path) -> None:
    said = metadata(bos_token_id=None, eos_token_id=None, unknown_token_id=None)
    convert(write_gguf(tmp_path / "x.gguf", llama_tensors(), said), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert [config[f"{name}_token"] for name in ("bos", "eos", "unk")] == ["<s>", "</s>", "<unk>"]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    tokens = said["tokenizer.ggml.tokens"]
    assert generation["eos_token_id"] == [2, tokens.index("<|end|>"), tokens.index("<|endoftext|>")]


@pytest.mark.parametrize("name", ["Phi 3 Mini 4k Instruct", "phi-3.5-mini", "Phi3"])
def test_white_space_after_a_marker_of_phi3_is_dropped(name: str, tmp_path: Path) -> None:
    said = metadata() | {"general.name": name}
    tokenizer = tokenizer_of(tmp_path, said)
    hello = tokenizer.encode("Hello", add_special_tokens=False).tokens
    ids = tokenizer.encode("<|user|>\n Hello<|end|>\n<|endoftext|>\n").ids
    tokens = [tokenizer.id_to_token(token) for token in ids]
    assert tokens[: 4 + len(hello)] == ["<s>", "<|user|>", *hello, "<|end|>", "<|endoftext|>"]
    assert len(tokens) > 4 + len(hello)  # it alone keeps what follows it


def test_white_space_after_a_marker_of_another_model_stays(tmp_path: Path) -> None:
    tokens = tokenizer_of(tmp_path, metadata() | {"general.name": "Phi 4"}).encode("<|end|>\n").tokens
    assert tokens[:2] == ["<s>", "<|end|>"]
    assert len(tokens) > 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"scores": [0.0]}, "a score for each token"),
        ({"scores": None}, "a score for each token"),
        ({"eos_token_id": 1 << 30}, "eos_token_id is 1073741824"),
        ({"add_eos_token": "yes"}, "add_eos_token is 'yes'"),
        ({"token_type": [1, 1]}, "a type for each token"),
        ({"token_type": ["a"]}, "token_type has a value that is not of type int"),
        ({"scores": ["a"]}, "scores has a value that is not of type float"),
        ({"tokens": [1, 2]}, "tokens has a value that is not of type str"),
        ({"merges": [1, 2]}, "merges has a value that is not of type str"),
    ],
)
def test_damage_is_refused_by_name(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", llama_tensors(), metadata(**said))
    with pytest.raises(ModelError, match=message):
        convert(path, tmp_path / "out")
