"""A resumable stream's own file: what another worker needs to go on with it after the death of this one.

It holds the request, the seed of what it draws at random, and its tokens, each before it is sent on. The file lies in
the private directory of the sockets, and goes with the stream. What a worker makes of it: replay.py.
"""

import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...engine.frames import FrameError, FrameReader, encode_frame
from ...engine.messages import PromptScores, Tokens

_SEED_BYTES = 16
KEY_HEADERS = (b"authorization", b"x-api-key")
_PRIVATE_HEADERS = frozenset({*KEY_HEADERS, b"proxy-authorization", b"cookie"})

logger = logging.getLogger(__name__)


class RequestEntry(Struct, tag="request", array_like=True):
    """The request, without what only its connection needs to know, such as its key."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes  # filled in when it is there
    seed: bytes  # big-endian, of what is drawn at random
    created: int  # Unix time, seconds
    arrival: float  # time.monotonic(), one clock for all processes of a machine


class SequenceTokens(Struct, array_like=True):
    """What one sequence of the request received at a time."""

    index: int  # of the sequence within its request
    tokens: Tokens
    queue_s: float | None = None
    cached_tokens: int = 0
    prompt_scores: PromptScores | None = None  # with its first tokens


class TokensEntry(Struct, tag="tokens", array_like=True):
    """What was received together, and so makes up the same events."""

    sequences: list[SequenceTokens]


Entry = RequestEntry | TokensEntry


class Journal:
    """Of one stream.

    Attributes:
        request: its first entry.
        earlier: tokens of an earlier run that were not replayed yet, in their order.
    """

    def __init__(self, request: RequestEntry, earlier: Sequence[TokensEntry] = ()) -> None:
        self.request = request
        self.earlier = deque(earlier)
        self._path: Path | None = None
        self._file: int | None = None
        self._pending: list[bytes] = []  # entries until there is a file

    @classmethod
    def begin(cls, scope: dict[str, Any]) -> "Journal":
        """Of a request that has just come."""
        headers = [(name, value) for name, value in scope["headers"] if name not in _PRIVATE_HEADERS]
        seed = secrets.token_bytes(_SEED_BYTES)
        return cls(RequestEntry(scope["method"], scope["path"], headers, b"", seed, int(time.time()), time.monotonic()))

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """What an earlier worker left; what comes is added to it.

        Raises:
            OSError, FrameError: it is not there, or not whole.
        """
        request, *entries = FrameReader[Entry](Entry).feed(path.read_bytes())
        if not isinstance(request, RequestEntry):
            raise FrameError("a journal without its beginning")
        journal = cls(request, [entry for entry in entries if isinstance(entry, TokensEntry)])
        # Its worker may have died within a write.
        os.truncate(path, sum(len(encode_frame(entry)) for entry in (request, *entries)))
        journal._path, journal._file = path, os.open(path, os.O_WRONLY | os.O_APPEND)
        return journal

    def open(self, path: Path) -> None:
        """Write it from now on. Without a file the stream goes on, but not beyond its worker."""
        self._path = path
        with self._given_up_on_error():
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            self._write(b"".join([encode_frame(self.request), *self._pending]))
        self._pending.clear()

    def append(self, sequences: list[SequenceTokens]) -> None:
        """These tokens are about to be sent on."""
        entry = encode_frame(TokensEntry(sequences))
        if self._path is None:
            self._pending.append(entry)
        elif self._file is not None:
            with self._given_up_on_error():
                self._write(entry)

    def close(self) -> None:
        """Write no more, but leave it to who comes next."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def delete(self) -> None:
        """Nobody will go on with the stream."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        while data:
            data = data[os.write(self._file, data) :]

    @contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        """A file that can't be written is deleted: half of it would be a lie."""
        try:
            yield
        except OSError as error:
            logger.warning("resumable stream: not kept beyond this worker: %s", error)
            self.delete()
