"""What a request has of its own beside its body: when it began, what it draws at random, where its tokens come from.

A request that runs again after its worker died (resume/replay.py) has the context of its first run, and so gives the
same answer.
"""

import random
import time
from contextvars import ContextVar

from .token_source import EngineTokens, TokenSource

_SYSTEM_RANDOM = random.SystemRandom()


class RequestContext:
    """That of a request which runs for the first time.

    Attributes:
        arrival: time.monotonic(), one clock for all processes of a machine.
        created: Unix time, seconds.
        random: of names and sampling; nothing that must not be guessed.
        stream_id: of the resumable stream that it writes, if that was there before the request ran.
    """

    stream_id: str | None = None

    def __init__(
        self, arrival: float | None = None, created: int | None = None, source: random.Random = _SYSTEM_RANDOM
    ) -> None:
        self.arrival = time.monotonic() if arrival is None else arrival
        self.created = int(time.time()) if created is None else created
        self.random = source

    def token_source(self, engine: EngineTokens) -> TokenSource:
        """Where the request's tokens come from."""
        return engine


_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def use_context(context: RequestContext) -> None:
    """From now on, in this task."""
    _current.set(context)


def request_context() -> RequestContext:
    """That of the request at hand."""
    return _current.get() or RequestContext()


def random_source() -> random.Random:
    """Draws for the request at hand."""
    return request_context().random


def random_hex(digits: int) -> str:
    """So many hexadecimal digits."""
    return f"{random_source().getrandbits(4 * digits):0{digits}x}"
