import asyncio
import json
from pathlib import Path

import pytest

from headwater.api.text.tokenizer import Tokenizer
from headwater.engine.checkpoint.errors import ModelError

BOS = 256


def copy_of(model_dir: Path, path: Path, **files: object) -> Path:
    (path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("length", [1, 5000])  # in place, in a thread
def test_encoding_adds_what_the_model_wants_and_decodes_to_the_text(model_dir: Path, length: int) -> None:
    tokenizer, text = Tokenizer(model_dir), "é" * length
    ids = asyncio.run(tokenizer.encode(text))
    assert ids[0] == BOS
    assert len(ids) == 1 + 2 * length
    assert tokenizer.decode(ids[1:]) == text


def test_truncation_keeps_the_end_of_the_text_and_the_special_tokens(model_dir: Path) -> None:
    tokenizer = Tokenizer(model_dir)
    whole = asyncio.run(tokenizer.encode("abcdef"))
    assert asyncio.run(tokenizer.encode("abcdef", truncate=3)) == [BOS, *whole[-2:]]
    assert asyncio.run(tokenizer.encode("abcdef", truncate=7)) == whole
    assert asyncio.run(tokenizer.encode("abcdef", truncate=1)) == [BOS]


@pytest.mark.parametrize(
    ("files", "eos_ids"),
    [
        # As chat models are published: the generation's token is the base model's, the turn's stands elsewhere.
        ({"generation_config": {"eos_token_id": 5}, "tokenizer_config": {"eos_token": "<|end|>"}}, (5, 257)),
        ({"generation_config": {"eos_token_id": [257, 5]}, "config": {"eos_token_id": 7}}, (257, 5, 7)),
        ({"generation_config": {"eos_token_id": 5}, "special_tokens_map": {"eos_token": "<|end|>"}}, (5, 257)),
        ({"special_tokens_map": {"eos_token": {"content": "<|end|>"}}}, (257,)),
        ({"config": {"text_config": {"eos_token_id": [257]}, "eos_token_id": None}}, (257,)),
        ({"generation_config": {"eos_token_id": [257, 999, -1]}}, (257,)),
        ({"generation_config": {"eos_token_id": 5}}, (5,)),
        ({"generation_config": {}, "tokenizer_config": {"eos_token": "<|end|>"}}, (257,)),
        ({"tokenizer_config": {"eos_token": {"content": "<|end|>", "special": True}}}, (257,)),
        ({}, ()),
    ],
)
def test_what_ends_a_text(model_dir: Path, tmp_path: Path, files: dict[str, object], eos_ids: tuple[int, ...]) -> None:
    tokenizer = Tokenizer(copy_of(model_dir, tmp_path, **files))
    assert tokenizer.eos_ids == eos_ids
    assert set(eos_ids) <= set(tokenizer.special_tokens)  # so that it is no part of the text


def test_a_directory_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_long_texts_are_encoded_in_as_many_threads_as_are_allowed(model_dir: Path) -> None:
    assert Tokenizer(model_dir, threads=3)._executor._max_workers == 3
