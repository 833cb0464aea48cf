"""Log lines of the API processes: text for people, or one JSON object a line."""

import logging
import sys
from collections.abc import Mapping

import msgspec

logger = logging.getLogger("headwater.api")


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


def configure_logging(json_output: bool) -> None:
    """Send this process's headwater logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter() if json_output else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    root = logging.getLogger("headwater")
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False


def log_request(fields: Mapping[str, str | int | float]) -> None:
    """The one line of a request."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.info("request %s", text, extra={"fields": fields})
