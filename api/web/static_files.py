"""What the pages are made of: files of this package, sent with an ETag, compressed where the browser takes that."""

import asyncio
import gzip
import hashlib
from importlib.resources import files

from msgspec import Struct

from ..http.connection import Connection

# By name in /page/: where it lies in static/.
ASSETS = {
    "app.js": "app.js",
    "chat.js": "chat.js",
    "client.js": "client.js",
    "compare.js": "compare.js",
    "settings.js": "settings.js",
    "view.js": "view.js",
    "style.css": "style.css",
    "docs.js": "docs.js",
    "docs.css": "docs.css",
    "swagger-ui-bundle.js": "swagger-ui/swagger-ui-bundle.js",
    "swagger-ui.css": "swagger-ui/swagger-ui.css",
}
# All that a page needs comes from this server, images of style sheets aside, which stand in them.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"cache-control", b"no-cache"), (b"vary", b"accept-encoding"))
_CONTENT_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
}


class _StaticFile(Struct, frozen=True):
    body: bytes
    compressed: bytes
    etag: bytes  # weak: the same for both


_loaded: dict[str, _StaticFile] = {}


async def send_file(connection: Connection, name: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with a file of static/, or with 304 if the browser has it."""
    if (file := _loaded.get(name)) is None:
        # In a thread: compressing the largest takes as long as several tokens.
        file = _loaded[name] = await asyncio.to_thread(_load, name)
    common = (*_HEADERS, *headers, (b"etag", file.etag))
    if file.etag in connection.headers.get(b"if-none-match", b""):
        await connection.respond(304, headers=common)
        return
    content_type = _CONTENT_TYPES[name.rpartition(".")[2]]
    if _takes_gzip(connection.headers.get(b"accept-encoding", b"")):
        await connection.respond(200, file.compressed, content_type, (*common, (b"content-encoding", b"gzip")))
    else:
        await connection.respond(200, file.body, content_type, common)


def _load(name: str) -> _StaticFile:
    body = files(__package__).joinpath("static", name).read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:32]
    return _StaticFile(body, gzip.compress(body, mtime=0), f'W/"{digest}"'.encode())


def _takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding names gzip, and not to refuse it."""
    for coding in accepted.lower().split(b","):
        name, _, quality = coding.replace(b" ", b"").partition(b";q=")
        if name == b"gzip":
            return quality.strip(b"0.") != b"" or not quality
    return False
