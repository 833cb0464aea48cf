"""A resumable stream's own file: what another worker needs to go on with it after the death of this one.

It holds the request, what was drawn for it, and every token before it is sent on. Who reads it runs the request again:
the same code makes the same events of the same tokens, and then the engine goes on behind the last of them, as it does
after a restart. The file lies in the private directory of the sockets, and goes with the stream.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...engine.frames import FrameError, FrameReader, encode_frame
from ...engine.messages import Tokens
from ..generation.remote_sequence import RemoteSequence
from ..generation.request_context import Draws

SCOPE_KEY = "headwater.journal"  # where a request's ASGI scope has its journal

logger = logging.getLogger(__name__)


class Asked(Struct, tag="asked", array_like=True):
    """The request, without what only its connection needs to know, such as its key."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    seed: bytes  # big-endian, of what is drawn
    created: int
    arrival: float  # time.monotonic(), one clock for all processes of a machine


class Part(Struct, array_like=True):
    """What one sequence of the request got at a time."""

    index: int
    tokens: Tokens
    queue_s: float | None = None
    cached_tokens: int = 0
    prompt_logprobs: list[float] = []  # with its first tokens


class Taken(Struct, tag="taken", array_like=True):
    """What was taken together, and so makes up the same events."""

    parts: list[Part]


Entry = Asked | Taken


def part_of(index: int, remote: RemoteSequence, begin: int) -> Part:
    """What was taken of a request's ``index``-th sequence, from token ``begin`` on."""
    new = slice(begin, remote.taken)
    tokens = Tokens(
        remote.request_id, remote.token_ids[new], remote.logprobs[new], remote.finish_reason,
        remote.top_ids[new], remote.top_logprobs[new],
    )  # fmt: skip
    prompt_logprobs = remote.prompt_logprobs if begin == 0 else []
    return Part(index, tokens, remote.queue_s, remote.cached_tokens, prompt_logprobs)


def restore(remote: RemoteSequence, part: Part) -> None:
    """Let it have got that."""
    remote.queue_s, remote.cached_tokens = part.queue_s, part.cached_tokens
    remote.prompt_logprobs = part.prompt_logprobs or remote.prompt_logprobs
    remote.extend(part.tokens)


_SEED_BYTES = 16
_UNTOLD = frozenset({b"authorization", b"proxy-authorization", b"cookie"})


class Journal:
    """Of one stream.

    Attributes:
        asked: the request; its body is filled in when it is there.
        draws: what the request gets by chance.
        replaying: there are tokens of an earlier run that were not taken again yet.
    """

    def __init__(self, asked: Asked, draws: Draws) -> None:
        self.asked = asked
        self.draws = draws
        self._path: Path | None = None
        self._file: int | None = None
        self._entries: list[bytes] = []  # until there is a file
        self._earlier: deque[list[Part]] = deque()
        self._on_restored: Callable[[], None] = _ignore
        self.replaying = False

    @classmethod
    def begin(cls, scope: dict[str, Any], arrival: float) -> "Journal":
        """Of a request that has just come."""
        draws = Draws()
        headers = [(name, value) for name, value in scope["headers"] if name not in _UNTOLD]
        seed = draws.seed.to_bytes(_SEED_BYTES, "big")
        return cls(Asked(scope["method"], scope["path"], headers, b"", seed, draws.created, arrival), draws)

    @classmethod
    def read(cls, path: Path, on_restored: Callable[[], None]) -> "Journal":
        """What an earlier worker left; what comes is added to it.

        Args:
            on_restored: called when all of its tokens were taken again.

        Raises:
            OSError, FrameError: it is not there, or not whole.
        """
        asked, *entries = _read(path)
        if not isinstance(asked, Asked):
            raise FrameError("a journal without its beginning")
        journal = cls(asked, Draws(int.from_bytes(asked.seed, "big"), asked.created))
        journal._earlier.extend(entry.parts for entry in entries if isinstance(entry, Taken))
        journal._on_restored = on_restored
        journal.replaying = True
        # Its worker may have died within a write.
        os.truncate(path, sum(len(encode_frame(entry)) for entry in (asked, *entries)))
        journal._path, journal._file = path, os.open(path, os.O_WRONLY | os.O_APPEND)
        return journal

    def open(self, path: Path) -> None:
        """Write it from now on. Without a file the stream goes on, but not beyond its worker."""
        self._path = path
        with self._losing():
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            self._write(b"".join([encode_frame(self.asked), *self._entries]))
        self._entries.clear()

    def add(self, parts: Sequence[Part]) -> None:
        """These tokens are about to be sent on."""
        entry = encode_frame(Taken(list(parts)))
        if self._path is None:
            self._entries.append(entry)
        elif self._file is not None:
            with self._losing():
                self._write(entry)

    def again(self) -> list[Part] | None:
        """The next tokens of the earlier run; None when all were taken."""
        if self._earlier:
            return self._earlier.popleft()
        self.replaying = False
        self._on_restored()
        return None

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
    def _losing(self) -> Iterator[None]:
        """A file that can't be written is given up: half of it would be a lie."""
        try:
            yield
        except OSError as error:
            logger.warning("resumable stream: not kept beyond this worker: %s", error)
            self.delete()


def _read(path: Path) -> list[Entry]:
    return list(FrameReader[Entry](Entry).feed(path.read_bytes()))


def _ignore() -> None: ...
