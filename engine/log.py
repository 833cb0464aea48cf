"""Log lines of all processes: text for people, or one JSON object a line."""

import logging
import sys
import time
from typing import TextIO

import msgspec

logger = logging.getLogger("headwater")
PROGRESS_INTERVAL_S = 2.0


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


class _ProgramFormatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        error = "error: " if record.levelno >= logging.ERROR else ""
        return f"{self._program}: {error}{record.getMessage()}"


class _Terminal(logging.Handler):
    """News to standard output, what is wrong to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        stream: TextIO = sys.stderr if record.levelno > logging.INFO else sys.stdout
        try:
            print(self.format(record), file=stream, flush=True)
        except (OSError, ValueError):
            self.handleError(record)


def configure_logging(json_output: bool, program: str | None = None) -> None:
    """Where this process's headwater logs go.

    Args:
        json_output: one JSON object a line.
        program: what text lines begin with, on standard output; None: with the time, on standard error.
    """
    handler = logging.StreamHandler(sys.stderr) if program is None else _Terminal()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s") if program is None else _ProgramFormatter(program)
    handler.setFormatter(_JsonFormatter() if json_output else text)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Progress:
    """A line every few seconds about work that takes long; none about work that does not."""

    def __init__(self, what: str, total: int, unit: str, scale: float = 1.0) -> None:
        """``total``: in steps of ``add``; divided by ``scale`` they are ``unit``."""
        self._what = what
        self._total = total
        self._unit = unit
        self._scale = scale
        self._done = 0
        self._next = time.monotonic() + PROGRESS_INTERVAL_S

    def add(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_INTERVAL_S
            done, total = self._done / self._scale, self._total / self._scale
            share = 100 * self._done // max(1, self._total)
            logger.info("%s: %d %%, %.0f of %.0f %s", self._what, share, done, total, self._unit)


def log_refusal(error: Exception, json_output: bool) -> None:
    """The one line of a program that cannot start, whichever of its processes finds out."""
    configure_logging(json_output, "headwater")
    logger.error("%s", error)
