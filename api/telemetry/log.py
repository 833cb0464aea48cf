"""Log lines of the API processes; engine/log.py says where they go."""

import logging
from collections.abc import Mapping

logger = logging.getLogger("headwater.api")


def log_request(fields: Mapping[str, str | int | float]) -> None:
    """The one line of a request."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.info("request %s", text, extra={"fields": fields})
