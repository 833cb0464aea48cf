"""GET / in a browser: a page that shows the same answer streamed and not streamed, and a chat."""

from ..generation.service import Service
from ..http.connection import Connection
from ..tgi.info import health
from .static_files import ASSETS, send_file


async def root(service: Service, connection: Connection) -> None:
    """GET /: the page for browsers, health for all who don't ask for HTML."""
    path: str = connection.scope["path"]
    if b"text/html" in connection.headers.get(b"accept", b""):
        if not path.endswith("/"):  # the root path alone: the page's links are relative to what stands below it
            await connection.respond(303, headers=[(b"location", path.rpartition("/")[2].encode() + b"/")])
            return
        await send_file(connection, "index.html", (b"vary", b"accept"))
    else:
        await health(service, connection)


async def asset(_service: Service, connection: Connection) -> None:
    """GET /page/...: what the pages need."""
    await send_file(connection, ASSETS[connection.route.rpartition("/")[2]])
