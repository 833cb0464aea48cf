"""Vocabulary and merges of a GGUF -> tokenizer.json and tokenizer_config.json.

Two kinds: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama").
"""

import re
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from .gguf_file import GgufFile
from .gguf_pre_tokenizers import PRE_TOKENIZERS

KINDS = ("gpt2", "llama")

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

# What llama.cpp takes where a SentencePiece vocabulary's file does not say.
SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}
# Phi-3's markers take the white space after them. No key says so: llama.cpp looks at the model's name, too.
STRIPPED_NAME = re.compile(r"phi[-_ ]?3", re.IGNORECASE)
NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The tokenizer of a GGUF. Raises ModelError for a kind or pre-tokenizer that is not known."""
    kind = gguf.require("tokenizer.ggml.model", str)
    if kind not in KINDS:
        raise gguf.error(f"tokenizer kind {kind!r} cannot be converted; known: {', '.join(KINDS)}")
    tokens = spelled_tokens(gguf)
    if not tokens:
        raise gguf.error("the metadata has no tokenizer.ggml.tokens. The file is incomplete: get or convert it again")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise gguf.error("tokenizer.ggml.tokens has the same token twice. The file is damaged: get or convert it again")
    tokenizer = _byte_level(gguf, vocab) if kind == "gpt2" else _sentencepiece(gguf, vocab)
    _add_tokens(gguf, tokens, tokenizer)
    _add_ends(gguf, tokens, tokenizer)
    return tokenizer


def special_id(gguf: GgufFile, name: str) -> int:
    """The id of a special token, by the GGUF's name for it: ``bos``, ``eos``, ``unknown`` ...; -1 if there is none."""
    sentencepiece = gguf.get("tokenizer.ggml.model", "") == "llama"
    return gguf.get(f"tokenizer.ggml.{name}_token_id", SENTENCEPIECE_IDS.get(name, -1) if sentencepiece else -1)


def adds_bos(gguf: GgufFile) -> bool:
    """Whether a text begins with the bos token."""
    pre = PRE_TOKENIZERS.get(gguf.get("tokenizer.ggml.pre", ""))
    by_default = gguf.get("tokenizer.ggml.model", "") == "llama" or (pre is not None and pre.add_bos)
    return gguf.get("tokenizer.ggml.add_bos_token", by_default)


def adds_eos(gguf: GgufFile) -> bool:
    """Whether a text ends with the eos token."""
    return gguf.get("tokenizer.ggml.add_eos_token", False)


def spelled_tokens(gguf: GgufFile) -> list[str]:
    """The vocabulary as tokenizer.json spells it: llama.cpp writes SentencePiece's user-defined spaces as spaces."""
    if gguf.get("tokenizer.ggml.model", "") != "llama":
        return gguf.tokens
    return [
        token.replace(" ", "▁") if kind == USER_DEFINED else token
        for token, kind in zip(gguf.tokens, token_kinds(gguf), strict=True)
    ]


def token_kinds(gguf: GgufFile) -> list[int]:
    """Of each token: ``NORMAL`` where the file does not say. Raises ModelError."""
    kinds = gguf.array("tokenizer.ggml.token_type", int)
    if kinds and gguf.tokens and len(kinds) != len(gguf.tokens):
        raise gguf.error("tokenizer.ggml.token_type does not have a type for each token. Get or convert the file again")
    return kinds if len(kinds) == len(gguf.tokens) else [NORMAL] * len(gguf.tokens)


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json: special tokens and the chat template."""
    tokens = spelled_tokens(gguf)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": gguf.require(f"{gguf.architecture}.context_length", int),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos(gguf),
        "add_eos_token": adds_eos(gguf),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = _special_token(gguf, key, tokens)
        if token is not None:
            config[f"{name}_token"] = token
    template = gguf.get("tokenizer.chat_template", "")
    if template:
        config["chat_template"] = template
    return config


def _special_token(gguf: GgufFile, name: str, tokens: list[str]) -> str | None:
    token = special_id(gguf, name)
    if token >= len(tokens):
        raise gguf.error(f"tokenizer.ggml.{name}_token_id is {token}, of {len(tokens)} tokens")
    return tokens[token] if token >= 0 else None


def _byte_level(gguf: GgufFile, vocab: dict[str, int]) -> Tokenizer:
    name = gguf.get("tokenizer.ggml.pre", "")
    if name not in PRE_TOKENIZERS:
        raise gguf.error(
            f"pre-tokenizer {name or 'missing'!r} is not known; known: {', '.join(PRE_TOKENIZERS)}. "
            "Another way to cut text would give other tokens; use the model in Hugging Face format instead"
        )
    pre = PRE_TOKENIZERS[name]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=_merges(gguf, vocab), ignore_merges=pre.whole_words_first))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.cut()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(gguf: GgufFile, vocab: dict[str, int]) -> Tokenizer:
    """SentencePiece's BPE, written as merges with bytes as a fallback, as Hugging Face does for Llama 2."""
    scores = gguf.array("tokenizer.ggml.scores", float)
    if len(scores) != len(vocab):
        raise gguf.error("tokenizer.ggml.scores does not have a score for each token. Get or convert the file again")
    kinds = token_kinds(gguf)
    if len({score for score, kind in zip(scores, kinds, strict=True) if kind == NORMAL}) == 1:
        # Made of a tokenizer.json, which has no scores: its tokens stand in the order of their merges.
        scores = [float(-i) for i in range(len(scores))]
    # llama.cpp scores the user-defined pieces -1000; SentencePiece takes them first, which Hugging Face says by a 0.
    scores = [0.0 if kind == USER_DEFINED else score for score, kind in zip(scores, kinds, strict=True)]
    unknown = special_id(gguf, "unknown")
    model = BPE(
        vocab=vocab,
        merges=_merges(gguf, vocab) or _merges_by_score(vocab, scores),
        unk_token=next((token for token, i in vocab.items() if i == unknown), None),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    endings: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if gguf.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        endings.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(endings)
    return tokenizer


def _merges(gguf: GgufFile, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for merge in gguf.array("tokenizer.ggml.merges", str):
        left, _, right = merge.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise gguf.error(f"tokenizer.ggml.merges has {merge!r}, which is not in the vocabulary. Get the file again")
        merges.append((left, right))
    return merges


def _merges_by_score(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose result scores best: the same as merges ranked by their result's score.

    Equal scores in Hugging Face's order, as their tokenizer.json files have it: the longest left part first.
    """
    ranked = []
    for piece, i in vocab.items():
        pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        ranked += [
            (-scores[i], -len(left), -len(right), i, left, right)
            for left, right in pairs
            if left in vocab and right in vocab
        ]
    ranked.sort(key=lambda entry: entry[:4])
    return [(left, right) for *_, left, right in ranked]


def _add_tokens(gguf: GgufFile, tokens: list[str], tokenizer: Tokenizer) -> None:
    """Control tokens become special ones, user-defined ones are matched whole in the text as well."""
    strips = STRIPPED_NAME.search(gguf.get("general.name", "")) is not None
    added = [
        AddedToken(token, normalized=False, special=kind != USER_DEFINED, rstrip=strips and token not in NOT_STRIPPED)
        for token, kind in zip(tokens, token_kinds(gguf), strict=True)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)


def _add_ends(gguf: GgufFile, tokens: list[str], tokenizer: Tokenizer) -> None:
    bos = _special_token(gguf, "bos", tokens) if adds_bos(gguf) else None
    eos = _special_token(gguf, "eos", tokens) if adds_eos(gguf) else None
    first, last = [bos] if bos is not None else [], [eos] if eos is not None else []
    if not first and not last:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *first, "$B:1", *last],
        special_tokens=[(token, tokens.index(token)) for token in dict.fromkeys(first + last)],
    )
