"""Small documents that all workers share, by name: for some time, and up to so many bytes."""

import os
import re
import secrets
import time
from pathlib import Path

from ..telemetry.log import logger

MAX_BYTES = 256 << 20  # of all of them; the oldest go first
_TRIM_EVERY_S = 5.0
_TRIM_EVERY_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]{1,96}")


class Documents:
    """Files of one directory."""

    def __init__(self, directory: Path, age_s: float) -> None:
        """
        Args:
            directory: a private one, made when it is needed.
            age_s: how long a document is kept after it was last put; 0: none is.
        """
        self._directory = directory
        self._trimmed_at = 0.0  # time.monotonic()
        self._put_bytes = 0  # since then
        self.age_s = age_s

    def put(self, name: str, data: bytes) -> None:
        """Keep a document in place of one of the same name."""
        if not self.age_s:
            return
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            fresh = self._directory / f".{secrets.token_hex(8)}"
            fresh.write_bytes(data)
            fresh.rename(self._directory / name)
        except OSError as error:
            logger.warning("a document is not kept: %s", error)
            return
        self._put_bytes += len(data)
        if time.monotonic() >= self._trimmed_at + _TRIM_EVERY_S or self._put_bytes >= _TRIM_EVERY_BYTES:
            self._trim()

    def get(self, name: str) -> bytes | None:
        """The document, None if it isn't there."""
        if _NAME.fullmatch(name) is None:
            return None
        path = self._directory / name
        try:
            data, changed = path.read_bytes(), path.stat().st_mtime
        except OSError:
            return None
        return data if changed + self.age_s > time.time() else None

    def delete(self, name: str) -> bool:
        """Forget a document. Returns whether it was there."""
        if _NAME.fullmatch(name) is None:
            return False
        try:
            (self._directory / name).unlink()
        except OSError:
            return False
        return True

    def _trim(self) -> None:
        """Hold the bounds. Other workers may do the same at the same time."""
        self._trimmed_at, self._put_bytes = time.monotonic(), 0
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime, status.st_size, entry.path))
        left = sum(size for _, size, _ in found)
        oldest = time.time() - self.age_s
        for changed, size, path in sorted(found):
            if changed > oldest and left <= MAX_BYTES:
                break
            left -= size
            Path(path).unlink(missing_ok=True)
