import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError

from .conftest import MERGES, TOKEN_TYPES, TOKENS, WriteGguf, default_metadata, llama_tensors, write_gguf

TEXTS = [
    "",
    "Hello world",
    " leading and trailing ",
    "  two  spaces   three\n\n\nlines\r\n\ttab",
    "In 1990, 12345 people; x = 3.14e10  7",
    "it's I'LL you'Ve we'd they're",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n",
    "日本語のテキスト、한국어 العربية עברית",
    "naïve café e\u0301 ﬁ ½ ² Ⅷ ٣",
    "😀👨‍👩‍👧 🇫🇷\u200b\ufeff",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_end|> <repo_name> <|im_star",
    "\x00\x01\x7f\x80",
]


@pytest.fixture(scope="session")
def default_tokenizer(default_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(default_model / "tokenizer.json"))


@pytest.fixture(scope="session")
def oracle(default_gguf: Path) -> PreTrainedTokenizerFast:
    """transformers' reading of the same file, with the pre-tokenizer of the published SmolLM2 tokenizer.json.

    From a GGUF, transformers takes GPT-2's pre-tokenizer, which differs for spaces before a number.
    """
    tokenizer = AutoTokenizer.from_pretrained(default_gguf.parent, gguf_file=default_gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]
    )
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_default_model_tokenises_like_the_oracle(
    default_tokenizer: Tokenizer, oracle: PreTrainedTokenizerFast, text: str
) -> None:
    ids = default_tokenizer.encode(text).ids
    assert ids == oracle(text).input_ids
    assert default_tokenizer.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_tokenises_like_the_oracle_and_back(
    default_tokenizer: Tokenizer, oracle: PreTrainedTokenizerFast, text: str
) -> None:
    ids = default_tokenizer.encode(text).ids
    assert ids == oracle(text).input_ids
    # SmolLM2's vocabulary has no token for some control characters: they vanish.
    spelled = "".join(bytes_to_unicode()[byte] for byte in text.encode())
    if all(default_tokenizer.token_to_id(character) is not None for character in spelled):
        assert default_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_default_model_chat_template(default_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer.encode("<|im_start|>a<|im_end|>"), skip_special_tokens=True) == "a"


def convert_tokenizer(path: Path) -> Tokenizer:
    convert(path, path.parent / "out")
    return Tokenizer.from_file(str(path.parent / "out" / "tokenizer.json"))


# The pieces before the merges, per pre-tokenizer: single digits, runs of three, as many as there are.
@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["a", "Ġ", "1", "2", "3", "4", "b", "!", "Ċ"]),
        ("gpt-2", ["a", "Ġ1234", "b", "!", "Ċ"]),
        ("llama-bpe", ["a", "Ġ", "123", "4", "b", "!Ċ"]),
        ("qwen2", ["a", "Ġ", "1", "2", "3", "4", "b", "!Ċ"]),
        ("tekken", ["a", "Ġ", "1", "2", "3", "4", "b", "!Ċ"]),
    ],
)
def test_text_is_cut_as_the_file_asks(tiny_gguf: WriteGguf, pre: str, pieces: list[str]) -> None:
    tokenizer = convert_tokenizer(tiny_gguf({"tokenizer.ggml.pre": pre}))
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a 1234b!\n")] == pieces


def test_merges_special_tokens_and_bos(tiny_gguf: WriteGguf) -> None:
    path = tiny_gguf({"tokenizer.ggml.add_bos_token": True})
    tokenizer = convert_tokenizer(path)
    assert tokenizer.encode("hello w<|end|><user>").tokens == ["<|start|>", "hello", "Ġw", "<|end|>", "<user>"]
    assert tokenizer.encode("hello", add_special_tokens=False).tokens == ["hello"]
    # Only control tokens are hidden from a reader.
    assert tokenizer.decode(tokenizer.encode("hello<|end|><user>").ids, skip_special_tokens=True) == "hello<user>"
    assert json.loads((path.parent / "out" / "tokenizer_config.json").read_text())["add_bos_token"] is True


# SentencePiece: an alphabet, joins whose scores order them, and all bytes for the rest.
PIECES = ["▁", "a", "b", "c", "ab", "▁a", "bc", "abc", "▁ab", "ca", "▁abc", "cab"]
SP_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
SP_TYPES = [2, 3, 3, *[6] * 256, *[1] * len(PIECES)]
SP_SCORES = [*[0.0] * 259, *(-float(i) for i in range(len(PIECES)))]


def sentencepiece(text: str) -> list[str]:
    """SentencePiece's BPE by its definition: join the neighbours whose result scores best, leftmost first."""
    score = dict(zip(PIECES, SP_SCORES[259:], strict=True))
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        joins = [(-score[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in score]
        if not joins:
            break
        _, i = min(joins)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return [t for s in symbols for t in ([s] if s in score else [f"<0x{byte:02X}>" for byte in s.encode()])]


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    metadata = default_metadata() | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": SP_TOKENS,
        "tokenizer.ggml.token_type": SP_TYPES,
        "tokenizer.ggml.scores": SP_SCORES,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return convert_tokenizer(write_gguf(tmp_path_factory.mktemp("sp") / "sp.gguf", llama_tensors(), metadata))


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abc é😀\n", min_size=1))
def test_sentencepiece_by_its_definition(sentencepiece_tokenizer: Tokenizer, text: str) -> None:
    encoding = sentencepiece_tokenizer.encode(text)
    assert encoding.tokens == ["<s>", *sentencepiece(text)]
    assert sentencepiece_tokenizer.decode(encoding.ids) == text


def test_sentencepiece_needs_a_score_for_each_token(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    path = tiny_gguf({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0]})
    with pytest.raises(ModelError, match="a score for each token"):
        convert(path, tmp_path / "out")


def test_the_tiny_vocabulary_is_what_these_tests_think() -> None:
    assert len(TOKENS) == len(set(TOKENS)) == len(TOKEN_TYPES)
    assert all(merge.replace(" ", "") in TOKENS for merge in MERGES)
