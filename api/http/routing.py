"""What a route is, and which one a request is for."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

# Called with the worker's Service, the Connection and, where the route has a request type, the decoded body.
Handler = Callable[..., Awaitable[None]]
Method = Literal["GET", "POST"]


class Parameter(Struct, frozen=True, kw_only=True):
    """A part of the path, or a header, that a route reads; a text unless there is a pattern."""

    name: str
    place: Literal["path", "header"]
    description: str
    pattern: str | None = None  # of its value


class Route(Struct, frozen=True, kw_only=True):
    """One method of one path: how it is answered, and what OpenAPI says of it.

    Attributes:
        path: may end in a parameter, ``{id}``, which may hold slashes.
        protected: needs the API key, if there is one.
        request: type of the JSON body; several: the handler gets any JSON and tells which it is; None: there is none.
        example: a body to begin with; needed where there is one.
        response: type of the JSON answer; None: it has no JSON body.
        event: type of the JSON in each event if the answer may be a stream.
        media_types: of an answer that is neither.
        errors: statuses besides 200, apart from those that every route with a body has.
        error: type of an error's JSON body; None: TGI's.
        parameters: that it reads besides the body.
        tag: its group in OpenAPI; empty: it is not listed there.
    """

    method: Method
    path: str
    handler: Handler
    protected: bool = True
    request: Any = None
    example: dict[str, Any] | None = None
    response: Any = None
    event: Any = None
    media_types: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    error: Any = None
    parameters: tuple[Parameter, ...] = ()
    tag: str = ""
    summary: str = ""
    description: str = ""


class Endpoint(Struct, frozen=True):
    """All routes of a path by method, with the decoders of their bodies."""

    path: str
    routes: dict[str, Route]
    decoders: dict[str, msgspec.json.Decoder[Any]]

    @property
    def allowed(self) -> bytes:
        """Value of the Allow header."""
        return ",".join("GET,HEAD" if method == "GET" else method for method in sorted(self.routes)).encode()


class Router:
    """Finds the routes of a path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, Endpoint] = {}
        self._prefixes: dict[str, tuple[str, Endpoint]] = {}  # parameter and endpoint by what stands before it
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for path, methods in by_path.items():
            decoders = {
                method: msgspec.json.Decoder(Any if isinstance(route.request, tuple) else route.request)
                for method, route in methods.items() if route.request is not None
            }  # fmt: skip
            endpoint = Endpoint(path, methods, decoders)
            prefix, brace, parameter = path.partition("{")
            if brace:
                self._prefixes[prefix] = (parameter.removesuffix("}"), endpoint)
            else:
                self._exact[path] = endpoint

    def find(self, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """The endpoint, and the parameters in the path; None: there is nothing."""
        if (endpoint := self._exact.get(path)) is not None:
            return endpoint, {}
        for prefix, (parameter, endpoint) in self._prefixes.items():
            if path.startswith(prefix):
                return endpoint, {parameter: path.removeprefix(prefix)}
        return None
