"""How text is cut before the merges of a byte-level BPE, by the name that a GGUF gives it (tokenizer.ggml.pre).

A GGUF has the name alone. What stands here is what the published tokenizer.json of the model behind the name does,
which llama.cpp comes close to but does not always reach; for ``default`` there is no such model, and llama.cpp's own
rule counts. Names: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split


@dataclass(frozen=True)
class PreTokenization:
    """What follows from the name."""

    cut: Callable[[], PreTokenizer]
    nfc: bool = False  # text is normalised first
    # A whole word that is in the vocabulary is taken even where the merges do not lead to it.
    whole_words_first: bool = False
    add_bos: bool = False  # unless the file says otherwise


def _class(ranges: str) -> str:
    """``41-5A B5`` -> the inside of a regex's brackets."""
    return "".join("-".join(rf"\x{{{end}}}" for end in part.split("-")) for part in ranges.split())


GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SEED_CODER_SPLIT = QWEN2_SPLIT.replace(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}\r\n]+")
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_CONTRACTION}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Most letters of scripts that have two cases. Written as code points: some look like others, such as the Kelvin sign.
DEEPSEEK_LETTERS = _class(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
DEEPSEEK_PUNCTUATION = _class("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002")
DEEPSEEK_EAST_ASIAN = _class("4E00-9FA5 800-4E00 AC00-D7FF")
DEEPSEEK_CODER_SPLITS = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", f"[{DEEPSEEK_EAST_ASIAN}]+")
DEEPSEEK_LLM_SPLITS = (
    r"[\r\n]",
    rf"\s?[{DEEPSEEK_LETTERS}]+",
    rf"\s?[{DEEPSEEK_PUNCTUATION}]+",
    r"\s+$",
    f"[{DEEPSEEK_EAST_ASIAN}]+",
)
DEEPSEEK_V3_SPLITS = (
    r"\p{N}{1,3}",
    f"[{_class('4E00-9FA5 3040-309F 30A0-30FF')}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
DEFAULT_SPLITS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", "[0-9][0-9][0-9]")


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False)  # has GPT-2's regex built in


def _digits_then_gpt2() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _falcon() -> PreTokenizer:
    # The last two cut what ByteLevel made of the text: some bytes are spelled as ², ¼ and other numbers.
    triples = Split(Regex("[0-9][0-9][0-9]"), behavior="isolated")
    return Sequence([Punctuation(behavior="contiguous"), _gpt2(), Digits(individual_digits=False), triples])


def _splits(*patterns: str, single_digits: bool = False) -> Callable[[], PreTokenizer]:
    """Each pattern cuts what those before it left."""

    def cut() -> PreTokenizer:
        steps: list[PreTokenizer] = [Split(Regex(pattern), behavior="isolated") for pattern in patterns]
        if single_digits:
            steps.append(Digits(individual_digits=True))
        return Sequence([*steps, ByteLevel(add_prefix_space=False, use_regex=False)])

    return cut


_LLAMA3 = PreTokenization(_splits(LLAMA3_SPLIT), whole_words_first=True, add_bos=True)
_DIGITS = PreTokenization(_digits_then_gpt2)
_QWEN2 = PreTokenization(_splits(QWEN2_SPLIT))

PRE_TOKENIZERS: dict[str, PreTokenization] = {
    "default": PreTokenization(_splits(*DEFAULT_SPLITS)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), PreTokenization(_splits(LLAMA3_SPLIT))),
    **dict.fromkeys(("qwen2", "stablelm2"), replace(_QWEN2, nfc=True)),
    **dict.fromkeys(("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"), _QWEN2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "minerva-7b"), _DIGITS),
    "command-r": replace(_DIGITS, nfc=True),
    **dict.fromkeys(("gpt-2", "phi-2", "a.x-4.0", "mellum", "trillion"), PreTokenization(_gpt2)),
    **dict.fromkeys(("olmo", "mpt"), PreTokenization(_gpt2, nfc=True)),  # GPT-NeoX's
    "falcon": PreTokenization(_falcon),
    "deepseek-llm": PreTokenization(_splits(*DEEPSEEK_LLM_SPLITS, single_digits=True)),
    "deepseek-coder": PreTokenization(_splits(*DEEPSEEK_CODER_SPLITS, single_digits=True)),
    "deepseek-v3": PreTokenization(_splits(*DEEPSEEK_V3_SPLITS)),
    "tekken": PreTokenization(_splits(TEKKEN_SPLIT), whole_words_first=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), PreTokenization(_splits(GPT4O_SPLIT))),
    "seed-coder": PreTokenization(_splits(SEED_CODER_SPLIT)),
}
