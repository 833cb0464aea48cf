"""Text to token ids and back, with what the model directory says about special tokens and the end of a text."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

VALIDATION_WORKERS = 2  # threads; what /info reports under that name

# Encoding runs at about 1 MB/s and releases the GIL: below this length (2 ms) a thread would cost more than it saves.
_ENCODE_INLINE_CHARACTERS = 2000


class Tokenizer:
    """tokenizer.json of a model directory.

    Attributes:
        special_tokens: text of each special token by id, those in ``eos_ids`` among them.
        eos_ids: ids that end a text, from generation_config.json, else tokenizer_config.json.
    """

    def __init__(self, model_dir: Path) -> None:
        """Raises ValueError, which names the file, if there is no usable tokenizer.json."""
        path = model_dir / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises no narrower type
            raise ValueError(f"{path}: not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token_id: token.content for token_id, token in added.items() if token.special}
        self.eos_ids = self._eos_ids(model_dir)
        self.special_tokens |= {eos: self._tokenizer.id_to_token(eos) or "" for eos in self.eos_ids}
        self._executor = ThreadPoolExecutor(VALIDATION_WORKERS, thread_name_prefix="tokenize")

    def _eos_ids(self, model_dir: Path) -> tuple[int, ...]:
        eos = _read_json(model_dir / "generation_config.json").get("eos_token_id")
        if isinstance(eos, int):
            return (eos,)
        if isinstance(eos, list):
            return tuple(eos)
        token = _read_json(model_dir / "tokenizer_config.json").get("eos_token")
        if isinstance(token, dict):  # an AddedToken written out
            token = token.get("content")
        eos = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return () if eos is None else (eos,)

    async def encode(self, text: str, truncate: int | None = None) -> list[int]:
        """Ids of ``text`` with the special tokens the model wants around it; long texts are encoded in a thread.

        Args:
            truncate: keep this many tokens: the last ones of the text, and the special ones around it.
        """
        if len(text) <= _ENCODE_INLINE_CHARACTERS:
            return self._encode(text, truncate)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, text, truncate)

    def _encode(self, text: str, truncate: int | None) -> list[int]:
        encoding = self._tokenizer.encode(text)
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
