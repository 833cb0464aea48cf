"""Pages of the KV cache as files of a directory: bytes under keys. Nothing is known here of tokens or tensors.

    directory / kind / key.page = what the kind and key are, a digest of the content, and the content

A kind is a directory: what computes other numbers has another one (page_kind.py). Several processes may share a
directory: a file appears whole, under its name, or not at all; who finds it gone or damaged has nothing. The files that
were used last are kept. Files of other names are nobody's business here: they are neither read, counted nor removed.
"""

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MAGIC = b"headwater page 1"
_DIGEST_BYTES = 20
_SUFFIX, _UNFINISHED = ".page", ".unfinished"
_ABANDONED_S = 3600.0  # an unfinished file of that age belongs to nobody any more
_KEPT_SHARE = 0.9  # of the bytes that are allowed, what is left when too many were there: so that it isn't always
_UNSEEN_SHARE = 0.05  # after so much it looks what other processes have written meanwhile

logger = logging.getLogger(__name__)


class PageFiles:
    """The pages of one kind, and the room that all kinds of the directory share.

    ``write`` may run in another thread than the rest.
    """

    def __init__(self, directory: Path, kind: bytes, max_bytes: int) -> None:
        """Makes the directories, for this user alone, if they aren't there. Raises OSError."""
        self._directory = directory
        self._kind = kind
        self._own = directory / kind.hex()
        self._max_bytes = max_bytes
        self._has_failed = False
        self._has_seen_damage = False
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own.mkdir(mode=0o700, exist_ok=True)
        self._bytes = self._trim()  # that lay there when this process looked
        self._written = 0  # by this process since then

    def has(self, key: bytes) -> bool:
        """Whether there is a file for the page."""
        return self._path(key).exists()

    def keeps(self, key: bytes) -> bool:
        """Whether the page need not be written; where there was damage, no file is trusted unread."""
        return not self._has_seen_damage and self.has(key)

    def read(self, key: bytes, content: memoryview) -> bool:
        """Fill ``content``, all of its bytes. False: there is no such page; what was damaged is removed."""
        path = self._path(key)
        head = bytearray(len(self._head(key, b"")) + _DIGEST_BYTES)
        try:
            with path.open("rb", buffering=0) as file:
                whole = file.readinto(head) == len(head) and _fill(file.fileno(), content) and not file.read(1)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._fail(error)
            return False
        if not whole or head != self._head(key, _digest(content)):
            logger.warning("prefix cache: %s is damaged, and removed", path)
            self._has_seen_damage = True
            with suppress(OSError):
                path.unlink()
            return False
        with suppress(OSError):
            os.utime(path)  # it was used now
        return True

    def write(self, key: bytes, content: memoryview) -> bool:
        """Keep a page, and make room if there are too many. False: it couldn't be kept; the log has said so once."""
        path = self._path(key)
        unfinished = self._own / f"{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            if self.keeps(key):
                os.utime(path)
                return True
            with unfinished.open("xb", buffering=0) as file:
                for part in (self._head(key, _digest(content)), content):
                    left = memoryview(part)
                    while left:
                        left = left[file.write(left) or 0 :]
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            self._fail(error)
            return False
        self._written += content.nbytes
        if self._bytes + self._written > self._max_bytes or self._written > self._max_bytes * _UNSEEN_SHARE:
            self._bytes, self._written = self._trim(), 0
        return True

    def _path(self, key: bytes) -> Path:
        return self._own / f"{key.hex()}{_SUFFIX}"

    def _head(self, key: bytes, digest: bytes) -> bytes:
        return _MAGIC + self._kind + key + digest

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = error.strerror or error
            logger.error("prefix cache: %s: %s. It goes on with what can be kept, and says no more", self._own, reason)

    def _trim(self) -> int:
        """Remove what was used longest ago, of any kind, where there is too much. Returns the bytes that are left."""
        files = sorted(self._files(), key=lambda file: file[0])
        total = sum(size for _, size, _ in files)
        if total <= self._max_bytes:
            return total
        for _, size, path in files:
            if total <= self._max_bytes * _KEPT_SHARE:
                break
            with suppress(OSError):  # another process was faster
                os.unlink(path)
            total -= size
        return total

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When each page was used, its bytes and its path; unfinished ones of processes that died are removed."""
        for kind in _entries(self._directory):
            if not _is_kind(kind.name):
                continue
            for entry in _entries(kind.path):
                with suppress(OSError):
                    stat = entry.stat()
                    if entry.name.endswith(_SUFFIX):
                        yield stat.st_mtime, stat.st_size, entry.path
                    elif entry.name.endswith(_UNFINISHED) and stat.st_mtime < time.time() - _ABANDONED_S:
                        os.unlink(entry.path)


def _entries(directory: Path | str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:  # no directory, or gone
        return []


def _is_kind(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _fill(descriptor: int, content: memoryview) -> bool:
    while content:
        count = os.readv(descriptor, [content])
        if count == 0:
            return False
        content = content[count:]
    return True


def _digest(content: memoryview) -> bytes:
    """Of damage, not of malice: whoever may write here may write anything."""
    return hashlib.sha1(content, usedforsecurity=False).digest()
