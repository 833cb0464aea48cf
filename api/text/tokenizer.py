"""Text to token ids and back, with what the model directory says about special tokens and the end of a text."""

import asyncio
import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tokenizers import decoders

from ...engine.checkpoint.end_tokens import end_token_ids
from ...engine.checkpoint.tokenizer_file import read_tokenizer

# Encoding runs at about 1 MB/s and releases the GIL: below this length (2 ms) a thread would cost more than it saves.
_ENCODE_INLINE_CHARACTERS = 2000

_REPLACEMENT = "\ufffd"  # shown for a part of a character
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's for a byte


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()

T = TypeVar("T")


class Tokenizer:
    """tokenizer.json of a model directory.

    Attributes:
        special_tokens: text of each special token by id, those in ``eos_ids`` among them.
        eos_ids: ids that end a text, see ``end_token_ids``.
        joins_bytes: a text is the bytes of its tokens, joined: what is whole in a token does not depend on the others.
    """

    def __init__(self, model_dir: Path, threads: int = 2) -> None:
        """``threads``: for long texts. Raises ModelError, which names the file that is missing or broken."""
        self._tokenizer = read_tokenizer(model_dir / "tokenizer.json")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token_id: token.content for token_id, token in added.items() if token.special}
        self.eos_ids = end_token_ids(model_dir, self._tokenizer)
        self.special_tokens |= {eos: self._tokenizer.id_to_token(eos) or "" for eos in self.eos_ids}
        self.joins_bytes = isinstance(self._tokenizer.decoder, decoders.ByteLevel)
        self._token_texts: dict[int, str] = {}
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")

    async def encode(self, text: str, truncate: int | None = None, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of ``text``; long texts are encoded in a thread.

        Args:
            truncate: keep this many tokens: the last ones of the text, and the special ones around it.
            add_special_tokens: those that the model wants around a text; a chat template has written them itself.
        """
        return await self._run(len(text), self._encode, text, truncate, add_special_tokens)

    async def spans(self, text: str, *, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
        """Id of each token of ``text``, and where it begins and ends, in bytes of UTF-8."""
        return await self._run(len(text), self._spans, text, add_special_tokens)

    async def _run(self, characters: int, function: Callable[..., T], *arguments: object) -> T:
        if characters <= _ENCODE_INLINE_CHARACTERS:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _spans(self, text: str, add_special_tokens: bool) -> list[tuple[int, int, int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        # Offsets are characters; bytes[i] is where the i-th begins.
        in_bytes = [0, *itertools.accumulate(len(character.encode()) for character in text)]
        return [
            (token_id, in_bytes[start], in_bytes[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def _encode(self, text: str, truncate: int | None, add_special_tokens: bool) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        if truncate is None or len(ids) <= truncate:
            return ids
        mask = encoding.special_tokens_mask  # 1: added around the text
        front = next((i for i, special in enumerate(mask) if not special), len(ids))
        back = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
        kept = max(truncate - front - back, 0)
        return ids[:front] + ids[len(ids) - back - kept : len(ids) - back] + ids[len(ids) - back :]

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``, special tokens included; bytes that are no character become U+FFFD."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    async def text(self, ids: list[int]) -> str:
        """As ``decode``; that of many ids is made in a thread."""
        return await self._run(len(ids), self.decode, ids)

    async def spellings(self, ids: list[int]) -> list[str]:
        """How the vocabulary writes each token; empty if it has none of that id."""
        return await self._run(len(ids), lambda: [self._tokenizer.id_to_token(token_id) or "" for token_id in ids])

    def token_id(self, text: str) -> int | None:
        """The token that is this text, None if it is no single token."""
        return self._tokenizer.token_to_id(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, which need not be whole characters."""
        text = self.token_text(token_id)
        if _REPLACEMENT not in text:
            return text.encode()
        spelled = self._tokenizer.id_to_token(token_id) or text
        if (byte := _BYTE_TOKEN.fullmatch(spelled)) is not None:
            return bytes([int(byte[1], 16)])
        if all(character in _BYTE_OF for character in spelled):
            return bytes(_BYTE_OF[character] for character in spelled)
        return text.encode()

    def token_text(self, token_id: int) -> str:
        """Text of one token without its neighbours: a leading space may be lost, half a character is U+FFFD."""
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self.decode([token_id])
        return text
