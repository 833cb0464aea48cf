"""The log line of a request."""

import logging
from collections.abc import Mapping

logger = logging.getLogger("headwater.api")


def log_request(fields: Mapping[str, str | int | float]) -> None:
    """The one line of a request; in JSON, its fields are the line's."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.info("request %s", text, extra=dict(fields))
