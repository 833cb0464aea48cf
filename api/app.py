"""The ASGI application of one worker: lifespan, dispatch, and what becomes of an error."""

import asyncio
import hmac
import os
import sys
from functools import cached_property

from setproctitle import setproctitle

from ..engine.log import configure_logging
from ..engine.parent_watch import watch_parent
from .generation.permits import Permits
from .generation.service import Service
from .http.connection import Application, Connection, Receive, Scope, Send
from .http.error_body import error_body
from .http.errors import ApiError, ClientDisconnect, ReaderStalled, TransportError, UnknownRouteError
from .http.routing import Endpoint, Router
from .launch.worker_settings import WorkerSettings, worker_settings
from .openapi import document
from .resume.middleware import ResumeMiddleware
from .routes import ROUTES
from .telemetry.log import logger

_ROUTER = Router(ROUTES)


class App:
    """Callable as ASGI 3 application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        scope["app"] = self
        connection = Connection(scope, receive, send, self._service.config.cors_allow_origin)
        try:
            await self._answer(connection)
        except asyncio.CancelledError:
            if not connection.gone:
                raise
        finally:
            connection.close()

    def openapi(self) -> bytes:
        """The OpenAPI document."""
        return self._document

    @cached_property
    def _document(self) -> bytes:
        return document(ROUTES, self._service.config.version, self._service.config.root_path)

    async def _answer(self, connection: Connection) -> None:
        try:
            await self._dispatch(connection)
        except ClientDisconnect:
            pass
        except (ApiError, TransportError) as error:
            self._service.log_refusal(connection, error.status, error.error_type)
            if not connection.started:
                await connection.respond(error.status, *error_body(connection.path, error), error.headers)
        except ReaderStalled:
            raise  # the only way to cut a connection
        except Exception:
            logger.exception("request %s failed", connection.request_id)
            if connection.started:
                raise
            fault = ApiError("Internal server error")
            self._service.log_refusal(connection, fault.status, fault.error_type)
            await connection.respond(fault.status, *error_body(connection.path, fault))

    async def _dispatch(self, connection: Connection) -> None:
        method = "GET" if connection.method == "HEAD" else connection.method
        if method == "OPTIONS":
            await connection.respond(200, headers=_preflight(connection))
            return
        found = _find(connection)
        if found is None:
            raise UnknownRouteError(connection.method, connection.path)
        endpoint, connection.path_params = found
        connection.route = endpoint.path
        route = endpoint.routes.get(method)
        if route is None or route.protected:
            self._check_key(connection)
        if route is None:
            raise UnknownRouteError(connection.method, connection.path, endpoint.allowed)
        if (decoder := endpoint.decoders.get(method)) is None:
            await route.handler(self._service, connection)
        else:
            body = await connection.read_json(decoder, self._service.config.payload_limit)
            await route.handler(self._service, connection, body)

    def _check_key(self, connection: Connection) -> None:
        """Raises TransportError unless the request bears the key, if there is one."""
        key = self._service.config.api_key
        if key is None:
            return
        scheme, _, given = connection.headers.get(b"authorization", b"").partition(b" ")
        # x-api-key is what Anthropic's clients send.
        # In constant time: how long it takes must not tell how much of a guess was right.
        bears = hmac.compare_digest(given, key.encode()) and scheme.lower() == b"bearer"
        if not (bears or hmac.compare_digest(connection.headers.get(b"x-api-key", b""), key.encode())):
            raise TransportError(401, "", ((b"www-authenticate", b"Bearer"),))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            await self._service.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _find(connection: Connection) -> tuple[Endpoint, dict[str, str]] | None:
    """What the router finds, whether or not the proxy in front has taken the root path away."""
    if (found := _ROUTER.find(connection.path)) is not None:
        return found
    root_path = connection.scope.get("root_path", "")
    rest = connection.path.removeprefix(root_path)
    if rest == connection.path or not f"{rest}/".startswith("/"):
        return None
    connection.path = "/" + rest.lstrip("/")
    return _ROUTER.find(connection.path)


def _preflight(connection: Connection) -> list[tuple[bytes, bytes]]:
    """Browsers ask before a POST; they may send whatever header they name (huggingface.js names user-agent, too)."""
    wanted = connection.headers.get(b"access-control-request-headers", b"content-type, authorization")
    return [(b"access-control-allow-methods", b"GET,POST,DELETE"), (b"access-control-allow-headers", wanted)]


def make_app() -> Application:
    """The application of this worker process, as its environment says."""
    settings = worker_settings()
    config = settings.config
    configure_logging(config.json_output)
    try:
        return _make_app(settings)
    except Exception:
        logger.critical("a worker cannot start", exc_info=True)
        sys.exit(1)  # an exception would be printed by multiprocessing


def _make_app(settings: WorkerSettings) -> Application:
    config = settings.config
    permits = Permits(settings.permits, config.max_concurrent_requests)
    setproctitle(f"headwater api {permits.index}")
    # Without its parent it would serve on beside a new server: the port is shared.
    watch_parent(settings.parent_pid, lambda: os._exit(1))
    app = App(Service(config, permits))
    directory = config.engine_socket.parent
    return ResumeMiddleware(app, permits.index, config.stream_resume_grace, directory, config.stored_response_age)
