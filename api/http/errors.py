"""What can go wrong with a request, as the client sees it; see docs/compatibility.md, Errors and limits."""

import math


class ApiError(Exception):
    """A refusal or failure that clients map by its ``error_type``: JSON body, or an event once a stream has begun."""

    status = 500
    error_type = "internal"
    failure = "generation"  # label of tgi_request_failure
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class ValidationError(ApiError):
    """The request is well formed, but asks for something that is not allowed."""

    status = 422
    error_type = "validation"
    failure = "validation"

    def __init__(self, reason: str, param: str | None = None) -> None:
        """``param``: the field, for clients that read it apart."""
        super().__init__(f"Input validation error: {reason}")
        self.param = param


class OverloadedError(ApiError):
    """No permit is free. 429, never 503: JavaScript clients repeat a 503 at once and without end."""

    status = 429
    error_type = "overloaded"
    failure = "overloaded"
    headers = ((b"retry-after", b"1"),)

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class GenerationError(ApiError):
    """The engine failed, died or stayed away."""

    status = 424
    error_type = "generation"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Request failed during generation: Server error: {reason}")


class DeadlineError(ApiError):
    """The request took longer than it may, in the queue or in the batch. Not 503, for the same reason as 429."""

    status = 504
    error_type = "timeout"
    failure = "timeout"

    def __init__(self, timeout_s: float) -> None:
        known = timeout_s < math.inf  # else it is the engine that says so
        super().__init__("Request timed out" + (f": not finished within {timeout_s:g} s" if known else ""))


class UnhealthyError(ApiError):
    """Answer of the health routes only; the body is TGI's, a header says why."""

    status = 503
    error_type = "healthcheck"

    def __init__(self, reason: str) -> None:
        super().__init__("unhealthy")
        self.headers = ((b"x-unhealthy-reason", reason.encode()),)


class StreamNotFoundError(ApiError):
    """No resumable stream with that id waits for a reader, or it no longer holds what was asked for."""

    status = 404
    error_type = "not_found"

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "No such stream: its id is wrong, or nobody read it for too long")


OTHER_TASK = "This server generates text: what is asked for needs a model of another kind, and a server for it"
_OTHER_TASKS = frozenset(
    {"embed", "embed_all", "embed_sparse", "embeddings", "feature-extraction", "pooling", "predict", "classify"}
    | {"rerank", "score", "similarity", "sentence-similarity", "speech", "transcriptions", "generations", "moderations"}
)


class UnknownRouteError(ApiError):
    """No route has that path, or none with that method."""

    error_type = "not_found"
    failure = "validation"

    def __init__(self, method: str, path: str, allowed: bytes | None = None) -> None:
        """``allowed``: the methods of a path that is known."""
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        if allowed is None:
            other = f". {OTHER_TASK}" if path.rpartition("/")[2] in _OTHER_TASKS else ""
            super().__init__(f"Not found: {method} {shown}{other}")
            self.status = 404
        else:
            super().__init__(f"Method not allowed: {method} {shown}; allowed: {allowed.decode()}")
            self.status, self.error_type = 405, "method_not_allowed"
            self.headers = ((b"allow", allowed),)


class TransportError(Exception):
    """The request could not be read as what the route takes: a plain text body, as TGI's HTTP layer answers.

    Its ``error_type`` is for the log.
    """

    def __init__(self, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.error_type = _TRANSPORT_TYPES[status]
        self.text = text
        self.headers = headers


_TRANSPORT_TYPES = {
    400: "malformed_body",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "validation",
}


class ClientDisconnect(Exception):
    """The client closed its connection; there is nobody to answer."""


class ReaderStalled(Exception):
    """The client stopped reading its stream; raised out of the app, so that the connection is cut."""


class ReaderReplaced(ReaderStalled):
    """A connection must not go on with its stream: another one does, or there is no more of it."""
