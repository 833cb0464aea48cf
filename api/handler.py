"""What a route is made of."""

from collections.abc import Awaitable, Callable

from .http.connection import Connection
from .service import Service

Handler = Callable[[Service, Connection], Awaitable[None]]
