"""What a route is, and which one a request is for."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

# Called with the worker's Service, the Connection and, where the route has a request type, the decoded body.
Handler = Callable[..., Awaitable[None]]
Method = Literal["GET", "POST", "DELETE"]


class Parameter(Struct, frozen=True, kw_only=True):
    """A part of the path or the query, or a header, that a route reads; a text unless there is a pattern."""

    name: str
    place: Literal["path", "header", "query"]
    description: str
    pattern: str | None = None  # of its value


class Route(Struct, frozen=True, kw_only=True):
    """One method of one path: how it is answered, and what OpenAPI says of it.

    Attributes:
        path: may have a parameter, ``{id}``, which may hold slashes.
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
        self._patterns: list[tuple[str, str, str, Endpoint]] = []  # what stands before and behind a parameter, its name
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for path, methods in by_path.items():
            decoders = {
                method: msgspec.json.Decoder(Any if isinstance(route.request, tuple) else route.request)
                for method, route in methods.items() if route.request is not None
            }  # fmt: skip
            endpoint = Endpoint(path, methods, decoders)
            before, brace, rest = path.partition("{")
            if brace:
                parameter, _, behind = rest.partition("}")
                self._patterns.append((before, behind, parameter, endpoint))
            else:
                self._exact[path] = endpoint
        self._patterns.sort(key=lambda pattern: -len(pattern[0] + pattern[1]))  # the closest first

    def find(self, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """The endpoint, and the parameters in the path; None: there is nothing."""
        if (endpoint := self._exact.get(path)) is not None:
            return endpoint, {}
        for before, behind, parameter, endpoint in self._patterns:
            if path.startswith(before) and path.endswith(behind) and len(path) >= len(before) + len(behind):
                return endpoint, {parameter: path.removeprefix(before).removesuffix(behind)}
        return None
