"""GET / in a browser: a page that shows the same answer streamed and not streamed, and a chat."""

from functools import cache
from importlib.resources import files

from ..generation.service import Service
from ..http.connection import Connection
from ..tgi.info import health

# All that the page needs comes from this server.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = [(b"content-security-policy", _POLICY), (b"cache-control", b"no-cache")]
_CONTENT_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
}


async def root(service: Service, connection: Connection) -> None:
    """GET /: the page for browsers, health for all who don't ask for HTML."""
    if b"text/html" in connection.headers.get(b"accept", b""):
        await _send_file(connection, "index.html", (b"vary", b"accept"))
    else:
        await health(service, connection)


async def asset(_service: Service, connection: Connection) -> None:
    """GET /page/...: what the page needs."""
    await _send_file(connection, connection.route.rpartition("/")[2])


async def _send_file(connection: Connection, name: str, *headers: tuple[bytes, bytes]) -> None:
    await connection.respond(200, _read(name), _CONTENT_TYPES[name.rpartition(".")[2]], [*_PAGE_HEADERS, *headers])


@cache
def _read(name: str) -> bytes:
    return files(__package__).joinpath("static", name).read_bytes()
