"""The log of a server: one form and one stream, standard output, for all of its processes and what they use.

Supervisor, API and engine call ``configure_logging`` first of all. Libraries' loggers, warnings and exceptions that
nobody caught come out in the same form. No torch here: the API imports this module.
"""

import logging
import sys
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("headwater")
PROGRESS_INTERVAL_S = 2.0

# For Granian, which else gives its loggers handlers of their own, in each of its processes.
GRANIAN_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {},
    "handlers": {},
    "loggers": {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")},
}


def configure_logging(json_output: bool) -> None:
    """Log lines of this process are JSON objects from now on, or text.

    Each object has ``timestamp`` (RFC 3339, UTC, milliseconds), ``level``, ``message``, ``target`` (who logs) and
    ``pid``, and whatever else the line is about; ``exception`` is a traceback.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # a test's stream may have none
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a file's name may be no text
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_json_formatter() if json_output else _TextFormatter(_TEXT))
    handler.addFilter(_is_wanted)
    logging.root.handlers = [handler]
    logger.setLevel(logging.INFO)
    adopt_loggers()
    logging.raiseExceptions = False  # what can't be logged is no reason to write something else
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda it: _log_uncaught(it.exc_type, it.exc_value, it.exc_traceback)
    threading.excepthook = lambda it: _log_uncaught(it.exc_type, it.exc_value, it.exc_traceback)


def adopt_loggers() -> None:
    """Let the loggers of libraries that were imported by now log here: some give theirs a handler of its own."""
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True


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
    if json_output:
        logger.error("%s", error)
    else:
        print(f"headwater: error: {error}", file=sys.stderr)


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _is_wanted(record: logging.LogRecord) -> bool:
    """Of libraries warnings only: some of their loggers have levels of their own."""
    return record.levelno >= logging.WARNING or record.name.startswith(logger.name)


class _TimeMixin:
    def formatTime(self, record: logging.LogRecord, _datefmt: str | None = None) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class _TextFormatter(_TimeMixin, logging.Formatter):
    pass


class _JsonFormatter(_TimeMixin, JsonFormatter):
    pass


def _json_formatter() -> logging.Formatter:
    return _JsonFormatter(
        ["asctime", "levelname", "message", "name", "process"],
        rename_fields={
            "asctime": "timestamp",
            "levelname": "level",
            "name": "target",
            "process": "pid",
            "exc_info": "exception",
        },
    )


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    logger.critical("uncaught exception", exc_info=(kind, error or kind(), trace))
