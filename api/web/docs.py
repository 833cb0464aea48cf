"""GET /docs and the OpenAPI document."""

from functools import cache
from importlib.resources import files

from ..generation.service import Service
from ..http.connection import Connection

# The page brings all it needs; it sends requests to this server only.
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def openapi(_service: Service, connection: Connection) -> None:
    """GET /openapi.json and, where TGI has it, /api-doc/openapi.json."""
    await connection.respond(200, connection.scope["app"].openapi(), b"application/json")


async def to_docs(_service: Service, connection: Connection) -> None:
    """GET /docs."""
    await connection.respond(303, headers=[(b"location", b"/docs/")])


async def docs(_service: Service, connection: Connection) -> None:
    """GET /docs/: a page that shows the document and sends requests."""
    headers = [(b"content-security-policy", _POLICY)]
    await connection.respond(200, _page(), b"text/html; charset=utf-8", headers)


@cache
def _page() -> bytes:
    return files(__package__).joinpath("static", "docs.html").read_bytes()
