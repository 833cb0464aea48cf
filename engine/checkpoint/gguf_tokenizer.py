"""Vocabulary and merges of a GGUF -> tokenizer.json and tokenizer_config.json.

Two kinds: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama"). A GGUF names how text is cut before the merges
(tokenizer.ggml.pre) without saying how that goes: the regexes here are those of the models' own tokenizer.json.
"""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from .gguf_file import GgufFile

KINDS = ("gpt2", "llama")

# tokenizer.ggml.token_type
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3_SPLIT),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2_SPLIT),
    "tekken": TEKKEN_SPLIT,
}
# GPT-2's own regex is built into the ByteLevel pre-tokenizer; these models cut single digits out first, or nothing.
DIGITS_THEN_GPT2 = ("smollm", "starcoder", "refact", "command-r")
PLAIN_GPT2 = ("gpt-2",)
PRE_TOKENIZERS = (*DIGITS_THEN_GPT2, *PLAIN_GPT2, *SPLITS)
# These take a whole word that is in the vocabulary even where the merges do not lead to it.
WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The tokenizer of a GGUF. Raises ModelError for a kind or pre-tokenizer that is not known."""
    kind = gguf.require("tokenizer.ggml.model", str)
    if kind not in KINDS:
        raise gguf.error(f"tokenizer kind {kind!r} cannot be converted; known: {', '.join(KINDS)}")
    tokens = spelled_tokens(gguf)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise gguf.error("the metadata has no tokenizer.ggml.tokens. The file is incomplete: get or convert it again")
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise gguf.error("tokenizer.ggml.tokens has the same token twice. The file is damaged: get or convert it again")
    tokenizer = _byte_level(gguf, vocab) if kind == "gpt2" else _sentencepiece(gguf, vocab)
    _add_tokens(gguf, tokens, tokenizer)
    _add_bos(gguf, tokens, tokenizer, by_default=kind == "llama")
    return tokenizer


def spelled_tokens(gguf: GgufFile) -> list[str]:
    """The vocabulary as tokenizer.json spells it: llama.cpp writes SentencePiece's user-defined spaces as spaces."""
    tokens, kinds = gguf.tokens, gguf.array("tokenizer.ggml.token_type")
    if gguf.get("tokenizer.ggml.model", "") != "llama" or len(kinds) != len(tokens):
        return tokens
    return [
        token.replace(" ", "▁") if kind == USER_DEFINED else token for token, kind in zip(tokens, kinds, strict=True)
    ]


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json: special tokens and the chat template."""
    tokens = spelled_tokens(gguf)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": gguf.require(f"{gguf.architecture}.context_length", int),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": gguf.get("tokenizer.ggml.add_bos_token", gguf.get("tokenizer.ggml.model", "") == "llama"),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = gguf.get(f"tokenizer.ggml.{key}_token_id", -1)
        if token >= len(tokens):
            raise gguf.error(f"tokenizer.ggml.{key}_token_id is {token}, of {len(tokens)} tokens")
        if token >= 0:
            config[f"{name}_token"] = tokens[token]
    template = gguf.get("tokenizer.chat_template", "")
    if template:
        config["chat_template"] = template
    return config


def _byte_level(gguf: GgufFile, vocab: dict[str, int]) -> Tokenizer:
    pre = gguf.get("tokenizer.ggml.pre", "")
    merges = _merges(gguf, vocab)
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=pre in WHOLE_WORDS_FIRST))
    cut: pre_tokenizers.PreTokenizer
    if pre in PLAIN_GPT2:
        cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre in DIGITS_THEN_GPT2:
        cut = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre in SPLITS:
        cut = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise gguf.error(
            f"pre-tokenizer {pre or 'missing'!r} is not known; known: {', '.join(PRE_TOKENIZERS)}. "
            "Another way to cut text would give other tokens; use the model in Hugging Face format instead"
        )
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(gguf: GgufFile, vocab: dict[str, int]) -> Tokenizer:
    """SentencePiece's BPE, written as merges with bytes as a fallback, as Hugging Face does for Llama 2."""
    scores = gguf.array("tokenizer.ggml.scores")
    if len(scores) != len(vocab):
        raise gguf.error("tokenizer.ggml.scores does not have a score for each token. Get or convert the file again")
    kinds = gguf.array("tokenizer.ggml.token_type")
    # llama.cpp scores the user-defined pieces -1000; SentencePiece takes them first, which Hugging Face says by a 0.
    scores = [0.0 if kind == USER_DEFINED else score for score, kind in zip(scores, kinds or scores, strict=False)]
    unknown = gguf.get("tokenizer.ggml.unknown_token_id", 0)
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
    for merge in gguf.array("tokenizer.ggml.merges"):
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
    kinds = gguf.array("tokenizer.ggml.token_type")
    if kinds and len(kinds) != len(tokens):
        raise gguf.error("tokenizer.ggml.token_type does not have a type for each token. Get or convert the file again")
    added = [
        AddedToken(token, normalized=False, special=kind != USER_DEFINED)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)


def _add_bos(gguf: GgufFile, tokens: list[str], tokenizer: Tokenizer, *, by_default: bool) -> None:
    bos = gguf.get("tokenizer.ggml.bos_token_id", -1)
    if bos < 0 or not gguf.get("tokenizer.ggml.add_bos_token", by_default):
        return
    if bos >= len(tokens):
        raise gguf.error(f"tokenizer.ggml.bos_token_id is {bos}, of {len(tokens)} tokens")
    token = tokens[bos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B:1"], special_tokens=[(token, bos)]
    )
