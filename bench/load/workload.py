"""What is asked: a fixed list of sessions, made before the clock starts and equal for equal seeds."""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from ..options import WorkloadName
from .lengths import Lengths
from .prompts import Words

# What `vllm bench serve` drops from ShareGPT, tokens.
SHAREGPT_LEAST = 4
SHAREGPT_LONGEST_PROMPT = 1024
SHAREGPT_LONGEST_TOTAL = 2048


class Turn(Struct, frozen=True):
    """One request of a session: what the user says, and how many tokens the answer shall have."""

    text: str
    input_tokens: int  # of this text alone, estimated or counted
    output_tokens: int


class Session(Struct, frozen=True):
    """Requests that follow each other; each carries all turns before it, with the server's answers."""

    turns: tuple[Turn, ...]


class Workload(Struct, frozen=True, kw_only=True):
    """As asked for on the command line; part of every report."""

    name: WorkloadName = "random"
    file: Path | None = None  # sharegpt, file
    input_tokens: Lengths = Lengths(128, 128)
    output_tokens: Lengths | None = None  # None: 128; sharegpt: as long as the answer in the file
    prefix_tokens: int = 512  # shared-prefix
    prefixes: int = 4  # shared-prefix
    turns: int = 4  # chat

    def sessions(self, words: Words, requests: int, seed: tuple[int, ...]) -> list[Session]:
        """Sessions with ``requests`` requests in all, or a few more to complete the last one. Raises ValueError.

        Args:
            seed: numbers of the run; others give other texts, so that no run finds those of the last in a cache.
        """
        random = np.random.default_rng(seed)
        make: dict[WorkloadName, Callable[[Words, np.random.Generator], Iterator[Session]]] = {
            "random": self._random,
            "shared-prefix": self._shared_prefix,
            "chat": self._chat,
            "sharegpt": self._sharegpt,
            "file": self._file,
        }
        per_session = self.turns if self.name == "chat" else 1
        return list(islice(make[self.name](words, random), -(-requests // per_session)))

    def _random(self, words: Words, random: np.random.Generator) -> Iterator[Session]:
        while True:
            yield Session((self._turn(words, random, self.input_tokens.draw(random)),))

    def _shared_prefix(self, words: Words, random: np.random.Generator) -> Iterator[Session]:
        prefixes = [words.text(random, self.prefix_tokens) for _ in range(self.prefixes)]
        number = 0
        while True:
            own = self._turn(words, random, self.input_tokens.draw(random))
            text = f"{prefixes[number % self.prefixes]} {own.text}"
            yield Session((Turn(text, self.prefix_tokens + own.input_tokens, own.output_tokens),))
            number += 1

    def _chat(self, words: Words, random: np.random.Generator) -> Iterator[Session]:
        while True:
            lengths = [self.input_tokens.draw(random) for _ in range(self.turns)]
            yield Session(tuple(self._turn(words, random, length) for length in lengths))

    def _turn(self, words: Words, random: np.random.Generator, input_tokens: int) -> Turn:
        return Turn(words.text(random, input_tokens), input_tokens, self._answer_tokens(random))

    def _answer_tokens(self, random: np.random.Generator) -> int:
        return (self.output_tokens or Lengths(128, 128)).draw(random)

    def _sharegpt(self, words: Words, random: np.random.Generator) -> Iterator[Session]:
        """The first question and answer of each conversation, in random order."""
        conversations = read_sharegpt(self._path())
        turns = []
        for question, answer in conversations:
            prompt = words.count(question)
            wanted = self.output_tokens.draw(random) if self.output_tokens else words.count(answer)
            if (
                min(prompt, wanted) >= SHAREGPT_LEAST
                and prompt <= SHAREGPT_LONGEST_PROMPT
                and prompt + wanted <= SHAREGPT_LONGEST_TOTAL
            ):
                turns.append(Turn(question, prompt, wanted))
        if not turns:
            raise ValueError(f"{self.file}: no conversation of a usable length")
        while True:
            for index in random.permutation(len(turns)):
                yield Session((turns[index],))

    def _file(self, words: Words, random: np.random.Generator) -> Iterator[Session]:
        """The lines of a text file, in order, again and again."""
        lines = [line for line in read_text(self._path()).splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{self.file}: no prompts; one a line is expected")
        while True:
            for line in lines:
                yield Session((Turn(line, words.count(line), self._answer_tokens(random)),))

    def _path(self) -> Path:
        if self.file is None:
            raise ValueError(f"workload {self.name} needs --file")
        return self.file


def read_text(path: Path) -> str:
    """Raises ValueError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_sharegpt(path: Path) -> list[tuple[str, str]]:
    """First question and answer of every conversation that has both. Raises ValueError."""
    try:
        entries = msgspec.json.decode(read_text(path), type=list[dict[str, Any]])
        pairs = [[turn["value"] for turn in entry.get("conversations", [])[:2]] for entry in entries]
    except (msgspec.DecodeError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path}: not ShareGPT\'s format, [{{"conversations": [{{"value": ...}}]}}]: {error}'
        ) from error
    return [(re.sub(r"\s+$", "", pair[0]), pair[1]) for pair in pairs if len(pair) == 2]
