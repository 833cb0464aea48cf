"""Byte-level BPE by the names of its pre-tokenizers, against the tokenizers that the names stand for.

Each is trained here, written into a GGUF as llama.cpp's converter does, and read back. Where transformers knows the
name, the oracle is its code; else the published tokenizer.json, whose part that cuts is quoted.
"""

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, trainers
from tokenizers.models import BPE
from transformers import CohereTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.checkpoint.gguf_pre_tokenizers import DEEPSEEK_LETTERS, PRE_TOKENIZERS
from headwater.engine.checkpoint.gguf_tokenizer import build_tokenizer

from .conftest import default_metadata, write_gguf

NASTY = [
    "",
    " ",
    "Hello world",
    " leading and trailing ",
    "  two  spaces   three    four\t\ttabs \t mixed\n",
    "\n\n\nlines\r\n\r\n  \n\ttab\r alone \n ",
    "In 1990, 12345 people; x = 3.14e10  7 1234567 a1b22c333d4444",
    "²³¹ ½¼¾ Ⅷ ٣٤٥ १२३ ① ４５６ òôм",
    "it's I'LL you'Ve we'd they're DON'T 'tis 'S x'RE ’s",
    "camelCase HTTPServer XMLParser iPhone ÀÉî ǅ ŒUVRE ʰª",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\nif (a&&b||!c) { d[0] += e->f; } // done\n",
    "https://example.org/a/b//c?d=e&f=g#h  path/to/\nfile/\r\n",
    "<html><b>é</b></html> $5+5=10 ^~|`` a_b __init__ %s {} \\n",
    "日本語のテキスト、한국어 العربية עברית 中文。！？ｆｕｌｌ",
    "naïve café e\u0301 o\u0308\u0323 ﬁ Å K Ω नमस्ते สวัสดี שָׁלוֹם",
    "😀👨‍👩‍👧 🇫🇷\u200b\ufeff \u00a0\u2003x\u3000y \u2028 \u0085z",
    "\x00\x01\x7f\x80 …—“quotes” «guillemets» ·•",
    "trailing spaces   ",
    "Zebra zebras' 'quoted' \"double\" don''t",
]


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}
DIGITS_THEN_GPT2 = sequence(SINGLE_DIGITS, byte_level(use_regex=True))
DEEPSEEK_LETTERS_PUBLISHED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u1f5f-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿ"
    "ﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
DEEPSEEK_V3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("smollm", "starcoder", "refact", "minerva-7b"), DIGITS_THEN_GPT2),
    "falcon": sequence(
        {"type": "Punctuation", "behavior": "Contiguous"},
        byte_level(use_regex=True),
        {"type": "Digits", "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    ),
    "deepseek-coder": sequence(
        split("[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split("[一-龥ࠀ-一가-\ud7ff]+"),
        SINGLE_DIGITS,
        byte_level(use_regex=False),
    ),
    "deepseek-llm": sequence(
        split("[\r\n]"),
        split(rf"\s?[{DEEPSEEK_LETTERS_PUBLISHED}]+"),
        split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        split(r"\s+$"),
        split("[一-龥ࠀ-一가-\ud7ff]+"),
        SINGLE_DIGITS,
        byte_level(use_regex=False),
    ),
    "deepseek-v3": sequence(
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK_V3_WORDS), byte_level(use_regex=False)
    ),
    # pat_str of GLM-4's published tokenizer.
    **dict.fromkeys(
        ("glm4", "chatglm-bpe"),
        sequence(
            split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            ),
            byte_level(use_regex=False),
        ),
    ),
    "seed-coder": sequence(
        split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        ),
        byte_level(use_regex=False),
    ),
}
# Of models that take a whole word from the vocabulary, and begin with a bos token.
LLAMA3_LIKE = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "tekken")
CLASSES = {
    "qwen2": Qwen2Tokenizer,
    "stablelm2": Qwen2Tokenizer,  # its own code does what Qwen2's does
    "command-r": CohereTokenizer,
    "olmo": GPTNeoXTokenizer,
    "mpt": GPTNeoXTokenizer,
}
WITHOUT_A_MODEL = ("default",)


def cutting(name: str) -> dict[str, Any]:
    """The normalizer and pre-tokenizer of the models behind a name, as tokenizer.json has them."""
    if name in CLASSES:
        # Vocabularies of their own to begin with: only the two parts are of use.
        whole = json.loads(CLASSES[name]().backend_tokenizer.to_str())
        return {key: whole[key] for key in ("normalizer", "pre_tokenizer")}
    if name in PUBLISHED:
        return {"normalizer": None, "pre_tokenizer": PUBLISHED[name]}
    if name in GGUF_PRE_TOKENIZER_SPLITS:
        cut = sequence(split(GGUF_PRE_TOKENIZER_SPLITS[name]), byte_level(use_regex=False))
        return {"normalizer": None, "pre_tokenizer": cut}
    whole = json.loads(GPT2Tokenizer().backend_tokenizer.to_str())
    return {"normalizer": None, "pre_tokenizer": whole["pre_tokenizer"]}


@cache
def oracle(name: str) -> Tokenizer:
    """A tokenizer of that kind, trained on the texts above, with a word that no merge leads to."""
    empty = json.loads(Tokenizer(BPE()).to_str())
    tokenizer = Tokenizer.from_str(json.dumps(empty | cutting(name)))
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=list(bytes_to_unicode().values()), show_progress=False
    )
    tokenizer.train_from_iterator(NASTY * 3, trainer)
    trained = json.loads(tokenizer.to_str())
    trained["model"]["vocab"]["Ġunmergeable"] = len(trained["model"]["vocab"])
    trained["model"]["ignore_merges"] = name in LLAMA3_LIKE
    return Tokenizer.from_str(json.dumps(trained))


def gguf_of(name: str, tokenizer: Tokenizer, directory: Path) -> GgufFile:
    """As convert_hf_to_gguf.py writes a tokenizer.json."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.add_bos_token": False,
    }
    return GgufFile(write_gguf(directory / f"{name}.gguf", {}, default_metadata() | said))


@pytest.fixture(scope="module")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    directory = tmp_path_factory.mktemp("pre")
    names = [name for name in PRE_TOKENIZERS if name not in WITHOUT_A_MODEL]
    return {name: build_tokenizer(gguf_of(name, oracle(name), directory)) for name in names}


@pytest.mark.parametrize("name", [name for name in PRE_TOKENIZERS if name not in WITHOUT_A_MODEL])
def test_tokens_are_those_of_the_model_behind_the_name(read_back: dict[str, Tokenizer], name: str) -> None:
    for text in (*NASTY, "".join(NASTY), "an unmergeable word"):
        encoding = read_back[name].encode(text)
        assert encoding.ids == oracle(name).encode(text).ids, repr(text)
        assert read_back[name].decode(encoding.ids) == (unicodedata.normalize("NFC", text) if name in CLASSES else text)
    assert ("Ġunmergeable" in read_back[name].encode("an unmergeable word").tokens) == (name in LLAMA3_LIKE)


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(
        alphabet=st.one_of(
            st.sampled_from(" \t\r\n'sSlL1a²Aé\u0301中!/_　"), st.characters(exclude_categories=("Cs",))
        ),
        max_size=24,
    )
)
def test_any_text_gives_the_tokens_of_the_model_behind_the_name(read_back: dict[str, Tokenizer], text: str) -> None:
    for name, tokenizer in read_back.items():
        assert tokenizer.encode(text).ids == oracle(name).encode(text).ids, name


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# As llama.cpp has it.
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


def llama_cpp_pieces(text: str, patterns: tuple[str, ...]) -> list[str]:
    """unicode_regex_split: each pattern cuts what those before it left; what matches nothing is a piece, too."""
    pieces = [text]
    for pattern in patterns:
        cut = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                cut += [piece[end : match.start()], match.group()]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return ["".join(bytes_to_unicode()[byte] for byte in piece.encode()) for piece in pieces]


@pytest.mark.parametrize("text", NASTY)
def test_default_is_llama_cpps_rule(text: str) -> None:
    cut = PRE_TOKENIZERS["default"].cut()
    assert [piece for piece, _ in cut.pre_tokenize_str(text)] == llama_cpp_pieces(text, DEFAULT)


def test_deepseeks_letters_are_the_published_ones() -> None:
    """Here by code point, so that nothing along the way can replace one by its look-alike."""
    written = regex.sub(r"\\x{([0-9A-F]+)}", lambda match: chr(int(match[1], 16)), DEEPSEEK_LETTERS)
    assert written == DEEPSEEK_LETTERS_PUBLISHED
    assert {"\u2126", "\u212a", "\u1fbe"} < set(written)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@pytest.mark.parametrize("said", [None, False, True])
def test_a_bos_token_is_added_where_the_file_or_the_name_says_so(name: str, said: bool | None, tmp_path: Path) -> None:
    metadata = default_metadata() | {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": said}
    tokenizer = build_tokenizer(GgufFile(write_gguf(tmp_path / "x.gguf", {}, metadata)))
    begins = name in LLAMA3_LIKE if said is None else said
    assert tokenizer.encode("he").tokens == ["<|start|>", "he"][not begins :]
