"""GET /docs and the OpenAPI document."""

from ..generation.service import Service
from ..http.connection import Connection
from .static_files import send_file


async def openapi(_service: Service, connection: Connection) -> None:
    """GET /openapi.json and, where TGI has it, /api-doc/openapi.json."""
    await connection.respond(200, connection.scope["app"].openapi(), b"application/json")


async def to_docs(_service: Service, connection: Connection) -> None:
    """GET /docs."""
    await connection.respond(
        303, headers=[(b"location", b"docs/")]
    )  # relative: a proxy may have put a prefix before it


async def docs(_service: Service, connection: Connection) -> None:
    """GET /docs/: a page that shows the document and sends requests."""
    await send_file(connection, "docs.html")
