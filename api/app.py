"""The ASGI application of one worker: lifespan, routing, and what becomes of an error."""

import asyncio
import hmac
import os

from setproctitle import setproctitle

from .generation.permits import Permits
from .handler import Handler
from .http.connection import Connection, Receive, Scope, Send
from .http.error_body import error_body
from .http.errors import ApiError, ClientGone, ReaderStalled, TransportError
from .launch.worker_settings import worker_settings
from .log import configure_logging, logger
from .openai import PREFIX_ROUTES
from .openai import ROUTES as OPENAI_ROUTES
from .resume import reconnect as routes_streams
from .resume.middleware import Response
from .service import Service
from .tgi import generate as routes_native
from .tgi import info as routes_info
from .web import docs as routes_docs
from .web import page as routes_page

_PARENT_CHECK_S = 1.0
# Whether the server lives is no secret, and a page is where a key is typed in.
_OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/ping", "/docs", "/docs/", *routes_page.ASSETS})

ROUTES: dict[str, dict[str, Handler]] = {
    **OPENAI_ROUTES,
    **routes_page.ASSETS,
    "/": {"GET": routes_page.root, "POST": routes_native.compat_generate},
    "/health": {"GET": routes_info.health},
    "/health/live": {"GET": routes_info.live},
    "/ping": {"GET": routes_info.health},
    "/info": {"GET": routes_info.info},
    "/metrics": {"GET": routes_info.metrics},
    "/generate": {"POST": routes_native.generate},
    "/generate_stream": {"POST": routes_native.generate_stream},
    "/tokenize": {"POST": routes_native.tokenize},
    "/docs": {"GET": routes_docs.to_docs},
    "/docs/": {"GET": routes_docs.docs},
    "/openapi.json": {"GET": routes_docs.openapi},
    "/api-doc/openapi.json": {"GET": routes_docs.openapi},
}

_PREFIX_ROUTES: dict[str, dict[str, Handler]] = {
    **PREFIX_ROUTES,
    routes_streams.STREAMS_PREFIX: {"GET": routes_streams.resume},
}


class App:
    """Callable as ASGI 3 application."""

    def __init__(self, service: Service, parent_pid: int) -> None:
        self._service = service
        service.streams.application = self._respond
        self._parent_pid = parent_pid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._service.streams.wanted(scope):
            await Response(self._service.streams, receive, send).run(self._respond, scope)
        else:
            await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(scope, receive, send, self._service.config.cors_allow_origin)
        try:
            await self._answer(connection)
        except asyncio.CancelledError:
            if not connection.gone:
                raise
        finally:
            connection.close()

    async def _answer(self, connection: Connection) -> None:
        try:
            await self._dispatch(connection)
        except ClientGone:
            pass
        except (ApiError, TransportError) as error:
            if not connection.started:
                await connection.respond(error.status, *error_body(connection.path, error), error.headers)
        except ReaderStalled:
            raise  # the only way to cut a connection
        except Exception:
            logger.exception("request %s failed", connection.request_id)
            if connection.started:
                raise
            fault = ApiError("Internal server error")
            await connection.respond(fault.status, *error_body(connection.path, fault))

    async def _dispatch(self, connection: Connection) -> None:
        method = "GET" if connection.method == "HEAD" else connection.method
        if method == "OPTIONS":
            await connection.respond(200, headers=_preflight(connection))
            return
        methods = ROUTES.get(connection.path) or _below_prefix(connection.path)
        if methods is None:
            raise TransportError(404, "")
        if connection.path not in _OPEN_PATHS or method != "GET":
            self._check_key(connection)
        handler = methods.get(method)
        if handler is None:
            raise TransportError(405, "", ((b"allow", _allowed(methods)),))
        await handler(self._service, connection)

    def _check_key(self, connection: Connection) -> None:
        """Raises TransportError unless the request bears the key, if there is one."""
        key = self._service.config.api_key
        if key is None:
            return
        scheme, _, given = connection.headers.get(b"authorization", b"").partition(b" ")
        # In constant time: how long it takes must not tell how much of a guess was right.
        if not (hmac.compare_digest(given, key.encode()) and scheme.lower() == b"bearer"):
            raise TransportError(401, "", ((b"www-authenticate", b"Bearer"),))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        watcher = asyncio.get_running_loop().create_task(self._leave_with_parent())
        try:
            await self._service.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        watcher.cancel()
        await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _leave_with_parent(self) -> None:
        """End this process if its parent was killed: the port is shared, so it would serve on beside a new server."""
        while os.getppid() == self._parent_pid:
            await asyncio.sleep(_PARENT_CHECK_S)
        os._exit(1)


def _below_prefix(path: str) -> dict[str, Handler] | None:
    return next((methods for prefix, methods in _PREFIX_ROUTES.items() if path.startswith(prefix)), None)


def _preflight(connection: Connection) -> list[tuple[bytes, bytes]]:
    """Browsers ask before a POST; they may send whatever header they name (clients.md 2: they name user-agent, too)."""
    wanted = connection.headers.get(b"access-control-request-headers", b"content-type, authorization")
    return [(b"access-control-allow-methods", b"GET,POST"), (b"access-control-allow-headers", wanted)]


def _allowed(methods: dict[str, Handler]) -> bytes:
    return ",".join(name for method in methods for name in (["GET", "HEAD"] if method == "GET" else [method])).encode()


def make_app() -> App:
    """The application of this worker process, as its environment says."""
    settings = worker_settings()
    configure_logging(settings.config.json_output)
    permits = Permits(settings.permits, settings.config.max_concurrent_requests)
    setproctitle(f"headwater api {permits.index}")
    return App(Service(settings.config, permits), settings.parent_pid)
