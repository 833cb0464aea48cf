from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from headwater.api.text.detokenizer import Detokenizer
from headwater.api.text.tokenizer import Tokenizer

from ..conftest import byte_ids

EOS = 257
REPLACEMENT = "\ufffd"
HARD = "naïve — 日本語テキスト 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \U0001f600\U0001f601 العربية"


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer(model_dir)


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The Llama 2 kind: spaces as a mark that is stripped from the front of a text, bytes for what is unknown."""
    path = tmp_path_factory.mktemp("sentencepiece")
    vocab = {"<unk>": 0, "▁": 1, **{f"<0x{byte:02X}>": byte + 2 for byte in range(256)}}
    vocab |= {piece: 258 + i for i, piece in enumerate(["h", "i", "▁h", "▁hi", "hi"])}
    raw = RawTokenizer(models.BPE(vocab, [("▁", "h"), ("▁h", "i"), ("h", "i")], unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens([AddedToken("</s>", special=True)])
    raw.save(str(path / "tokenizer.json"))
    return Tokenizer(path)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT)), prompt=st.text("aé日"))
def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer: Tokenizer, text: str, prompt: str) -> None:
    detokenizer = Detokenizer(tokenizer, byte_ids(prompt.encode()))
    pieces = [detokenizer.feed(token_id) for token_id in byte_ids(text.encode())]
    assert "".join(pieces) == text
    assert all(REPLACEMENT not in piece for piece in pieces)


def test_a_character_appears_with_its_last_byte(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    assert [detokenizer.feed(i) for i in byte_ids("a😀b".encode())] == ["a", "", "", "", "😀", "b"]


def test_text_before_an_unfinished_character_is_given_at_once(tmp_path: Path) -> None:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=400, show_progress=False
    )
    raw.train_from_iterator(["caféx cafèy", "caf\u00eaz"] * 5, trainer)  # "caf" + the byte the accents share
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    half = raw.token_to_id("caf\u00c3")
    detokenizer = Detokenizer(tokenizer, [])
    assert decoders.DecodeStream().step(raw, half) is None  # the library's own holds it back
    assert detokenizer.feed(half) == "caf"
    assert detokenizer.feed(raw.token_to_id("©")) == "é"  # © stands for byte A9


@pytest.mark.parametrize(
    ("prompt", "text", "ours", "theirs"),
    [
        # As long as they may be text, bytes that are none are kept, and decoded again with each token.
        (b"", b"\xff" * 20 + b"a", [*[""] * 15, REPLACEMENT * 16, *[""] * 4, REPLACEMENT * 4 + "a"],
         [*[""] * 20, REPLACEMENT * 20 + "a"]),
        (b"a\xc3", b"b", ["b"], ["a" + REPLACEMENT + "b"]),
    ],
)  # fmt: skip
def test_the_librarys_own_stream_differs(
    tokenizer: Tokenizer, prompt: bytes, text: bytes, ours: list[str], theirs: list[str]
) -> None:
    detokenizer = Detokenizer(tokenizer, byte_ids(prompt))
    stream = decoders.DecodeStream(ids=byte_ids(prompt))
    assert [detokenizer.feed(token_id) for token_id in byte_ids(text)] == ours
    assert [stream.step(tokenizer._tokenizer, token_id) or "" for token_id in byte_ids(text)] == theirs


@given(text=st.text("hi é日😀", min_size=1))
def test_sentencepiece_spaces_and_bytes_join_to_the_text(sentencepiece: Tokenizer, text: str) -> None:
    prompt_ids = sentencepiece._encode("hi", None, True)
    # What a model generates goes on after the prompt: no space of its own in front.
    raw = sentencepiece._tokenizer
    ids = raw.encode(text).ids
    detokenizer = Detokenizer(sentencepiece, prompt_ids)
    assert "".join(detokenizer.feed(i) for i in ids) == " " + text


def test_special_tokens_give_their_text_and_end_what_is_unfinished(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, byte_ids(b"prompt"))
    unfinished = byte_ids("ab😀".encode()[:-1])
    assert [detokenizer.feed(i) for i in [*unfinished, EOS]] == ["a", "b", "", "", "", "<|end|>"]
    assert [detokenizer.feed(i) for i in byte_ids("é".encode())] == ["", "é"]


def test_bytes_that_are_no_text_become_replacement_characters_once_that_is_certain(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    assert [detokenizer.feed(i) for i in byte_ids(b"\xff\xfeok")] == ["", "", REPLACEMENT * 2 + "o", "k"]


@given(data=st.binary(max_size=200))
def test_a_token_costs_the_same_wherever_it_stands(tokenizer: Tokenizer, data: bytes) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    for token_id in byte_ids(data):
        detokenizer.feed(token_id)
        assert len(detokenizer._window) <= 32


@given(data=st.binary(max_size=64))
def test_any_bytes_followed_by_text_leave_the_text_readable(tokenizer: Tokenizer, data: bytes) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    text = "".join(detokenizer.feed(i) for i in byte_ids(data + b"." + HARD.encode()))
    assert text.endswith("." + HARD)
