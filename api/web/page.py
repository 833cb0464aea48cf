"""GET / in a browser: a page that shows the same answer streamed and not streamed, and a chat."""

from ..generation.service import Service
from ..http.connection import Connection
from ..tgi.info import health
from .static_files import ASSETS, send_file


async def root(service: Service, connection: Connection) -> None:
    """GET /: the page for browsers, health for all who don't ask for HTML."""
    if b"text/html" in connection.headers.get(b"accept", b""):
        await send_file(connection, "index.html", (b"vary", b"accept"))
    else:
        await health(service, connection)


async def asset(_service: Service, connection: Connection) -> None:
    """GET /page/...: what the pages need."""
    await send_file(connection, ASSETS[connection.route.rpartition("/")[2]])
