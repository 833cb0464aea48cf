"""The ASGI application of one worker: lifespan, routing, and what becomes of an error."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import msgspec
from setproctitle import setproctitle

from . import routes_info, routes_native
from .errors import ApiError, ClientGone, ReaderStalled, TransportError
from .exchange import Exchange, Receive, Scope, Send
from .log import configure_logging, logger
from .permits import Permits
from .schema import ErrorResponse
from .service import Service
from .worker import worker_settings

_PARENT_CHECK_S = 1.0
_TEXT = b"text/plain; charset=utf-8"

Handler = Callable[[Service, Exchange], Awaitable[None]]

ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": routes_info.health, "POST": routes_native.compat_generate},
    "/health": {"GET": routes_info.health},
    "/ping": {"GET": routes_info.health},
    "/info": {"GET": routes_info.info},
    "/metrics": {"GET": routes_info.metrics},
    "/generate": {"POST": routes_native.generate},
    "/generate_stream": {"POST": routes_native.generate_stream},
}


class App:
    """Callable as ASGI 3 application."""

    def __init__(self, service: Service, parent_pid: int) -> None:
        self._service = service
        self._parent_pid = parent_pid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        exchange = Exchange(scope, receive, send, self._service.config.cors_allow_origin)
        try:
            await self._answer(exchange)
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
        finally:
            exchange.close()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._dispatch(exchange)
        except ClientGone:
            pass
        except TransportError as error:
            await exchange.respond(error.status, error.text.encode(), _TEXT if error.text else b"", error.headers)
        except ApiError as error:
            if not exchange.started:
                body = msgspec.json.encode(ErrorResponse(error.error, error.error_type))
                await exchange.respond(error.status, body, b"application/json", error.headers)
        except ReaderStalled:
            raise  # the only way to cut a connection
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            if exchange.started:
                raise
            body = msgspec.json.encode(ErrorResponse("Internal server error", "internal"))
            await exchange.respond(500, body, b"application/json")

    async def _dispatch(self, exchange: Exchange) -> None:
        method = "GET" if exchange.method == "HEAD" else exchange.method
        if method == "OPTIONS":
            await exchange.respond(200, headers=_preflight(exchange))
            return
        methods = ROUTES.get(exchange.path)
        if methods is None:
            raise TransportError(404, "")
        handler = methods.get(method)
        if handler is None:
            raise TransportError(405, "", ((b"allow", _allowed(methods)),))
        await handler(self._service, exchange)

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


def _preflight(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Browsers ask before a POST; they may send whatever header they name (clients.md 2: they name user-agent, too)."""
    wanted = exchange.headers.get(b"access-control-request-headers", b"content-type, authorization")
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
