"""What a route is made of."""

from collections.abc import Awaitable, Callable

from .exchange import Exchange
from .service import Service

Handler = Callable[[Service, Exchange], Awaitable[None]]
