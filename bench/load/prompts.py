"""Texts of a wanted length in tokens, made of random words that are one token each."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from ...engine.checkpoint.tokenizer_file import read_tokenizer

# One token each, with the space before it, in the vocabulary of every model tried.
_TEXT = (
    "about above after again air all along also always and animal another answer any are around ask away back be "
    "because been before being below best better between big black blue book both boy building built but by call "
    "came can car center change children city close cold come common could country course cut dark day did "
    "different do does door down draw dry during each early earth east eat end enough even ever every example eye "
    "face fact family far farm fast father feel feet few field figure find fire first fish five fly follow food "
    "foot for force form found four free friend from front full game get girl give go gold good got govern great "
    "green ground group grow had half hand hard has have he head heat help her here high him his hold home horse "
    "hot hour house how hundred idea if in interest is it just keep kind king know land language large last late "
    "lay lead learn leave left less let letter life light like line list listen little live long look love low "
    "machine made main make man many map mark may me mean measure men might mile mind minute miss money moon more "
    "most mother move much music must my name near need never new next night north note nothing noun now number "
    "of"
)
COMMON_WORDS = _TEXT.split()
WORDS_TRIED = 4096  # of a vocabulary
ADJUSTMENTS = 4  # words of the vocabulary that merge with their neighbours are rare


class Words:
    """Words of so many tokens each, and so many tokens around a text: lengths without a tokenizer."""

    def __init__(
        self, tokens_per_word: float = 1.0, overhead_tokens: float = 0.0, words: list[str] | None = None
    ) -> None:
        self._words = np.array(words or COMMON_WORDS)
        self._tokens_per_word = tokens_per_word
        self._overhead = overhead_tokens

    def text(self, random: np.random.Generator, tokens: int) -> str:
        """A text of about ``tokens`` tokens, at least one word."""
        return self._join(random, max(1, round((tokens - self._overhead) / self._tokens_per_word)))

    def count(self, text: str) -> int:
        """Tokens of a text, estimated."""
        return round(len(text.split()) * self._tokens_per_word + self._overhead)

    def _join(self, random: np.random.Generator, count: int) -> str:
        return " ".join(random.choice(self._words, count))


class TokenizedWords(Words):
    """Words of a tokenizer's own vocabulary; lengths are exact and include what it adds around a text."""

    def __init__(self, file: Path) -> None:
        """``file``: a tokenizer.json, or a directory with one. Raises ValueError, ModelError."""
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise ValueError(f"{file}: no such file; --tokenizer is a tokenizer.json or a directory with one")
        self._tokenizer = read_tokenizer(file)
        super().__init__(words=self._single_token_words())

    def text(self, random: np.random.Generator, tokens: int) -> str:
        text = self._join(random, max(1, tokens - self.count("")))
        for _ in range(ADJUSTMENTS):
            missing = tokens - self.count(text)
            if missing > 0:
                text += " " + self._join(random, missing)
            elif missing < 0:
                text = " ".join(text.split(" ")[:missing]) or text
        return text

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def _single_token_words(self) -> list[str]:
        candidates = sorted({word.lstrip("Ġ▁") for word in self._tokenizer.get_vocab()})
        candidates = [word for word in candidates if word.isascii() and word.isalpha() and len(word) > 1]
        np.random.default_rng(0).shuffle(candidates)
        around = self.count("")
        # One token both at the start of a text and after a space.
        singles = [word for word in candidates[:WORDS_TRIED] if self.count(word) == around + 1]
        return [word for word in singles if self.count(f"of {word}") == self.count("of") + 1] or COMMON_WORDS


async def calibrated_words(input_tokens_of: Callable[[str], Awaitable[int | None]]) -> Words | None:
    """Words measured with a server's own counts of two texts; None if it doesn't tell.

    Args:
        input_tokens_of: asks a server how many tokens a prompt has.
    """
    random = np.random.default_rng(0)
    few, many = (Words().text(random, words) for words in (16, 144))
    tokens_few, tokens_many = await input_tokens_of(few), await input_tokens_of(many)
    if tokens_few is None or tokens_many is None or tokens_many <= tokens_few:
        return None
    per_word = (tokens_many - tokens_few) / 128
    return Words(per_word, tokens_few - 16 * per_word)
