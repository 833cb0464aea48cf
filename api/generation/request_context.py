"""What a request gets by chance or by the clock: drawn once, or, where it is run again, the same as the first time."""

import random
import secrets
import time
from contextvars import ContextVar

_SYSTEM = random.SystemRandom()
_SEED_BITS = 128


class Draws:
    """The source of one request that may have to be run again.

    Attributes:
        seed: of ``source``, which everything is drawn from.
        created: Unix time, seconds.
    """

    def __init__(self, seed: int | None = None, created: int | None = None) -> None:
        """Those of an earlier run, or new ones."""
        self.seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        self.created = int(time.time()) if created is None else created
        self.source = random.Random(self.seed)  # of names and sampling, nothing that must not be guessed

    def use(self) -> None:
        """From now on, in this context."""
        _draws.set(self)


_draws: ContextVar[Draws | None] = ContextVar("draws", default=None)


def source() -> random.Random:
    """Draws for the request at hand."""
    draws = _draws.get()
    return _SYSTEM if draws is None else draws.source


def hex_digits(count: int) -> str:
    """So many at random."""
    return f"{source().getrandbits(4 * count):0{count}x}"


def created() -> int:
    """When the request at hand began, Unix time."""
    draws = _draws.get()
    return int(time.time()) if draws is None else draws.created
