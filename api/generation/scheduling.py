"""The fields of a request that say when it runs, until when, and with whom it shares what was computed."""

import math

from msgspec import Struct

from ...engine.messages import Scheduling
from ..http.errors import ValidationError
from ..http.json_body import I32


class SchedulingFields(Struct, kw_only=True):
    """Part of the body of every route that generates, under vLLM's names where it has them."""

    priority: I32 | None = None  # lower runs earlier; default: 0
    cache_salt: str | None = None  # its prompts share the prefix cache with those of the same salt alone
    timeout: float | None = None  # seconds from the request's arrival, at most --request-timeout


def scheduling_of(fields: SchedulingFields, arrival: float, limit_s: float) -> Scheduling:
    """What the engine is told. Raises ValidationError, which names the field.

    Args:
        arrival: of the request, time.monotonic().
        limit_s: what a request may take at most; 0: as long as it takes.
    """
    timeout_s = limit_s or math.inf
    if fields.timeout is not None:
        if not 0 < fields.timeout < math.inf:
            raise ValidationError("`timeout` must be a strictly positive number of seconds", "timeout")
        timeout_s = min(timeout_s, fields.timeout)
    if fields.cache_salt == "":
        raise ValidationError("`cache_salt` must not be empty", "cache_salt")
    return Scheduling(fields.priority or 0, fields.cache_salt or "", arrival, arrival + timeout_s)
