"""How a route describes itself in the OpenAPI document."""

from typing import Any, Literal

from msgspec import Struct


class Parameter(Struct, frozen=True, kw_only=True):
    """A part of the path, or a header, that a route reads; a text unless there is a pattern."""

    name: str
    place: Literal["path", "header"]
    description: str
    pattern: str | None = None  # of its value


RESUMABLE = Parameter(
    name="X-Stream-Resumable",
    place="header",
    pattern="^1$",
    description="`1`: a stream's answer bears an `X-Stream-Id`, and who lost the connection goes on at `/streams/`.",
)


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path.

    Attributes:
        request: type of the JSON body; None: there is none.
        response: type of the JSON answer; None: it has no JSON body.
        event: type of the JSON in each event if the answer may be a stream.
        media_type: of an answer that is neither.
        errors: statuses besides 200, apart from those that every route with a body has.
        error: type of an error's JSON body.
        parameters: that it reads besides the body; all that answer with events read RESUMABLE, too.
    """

    method: Literal["get", "post"]
    path: str
    tag: str
    summary: str
    description: str = ""
    request: Any = None
    response: Any = None
    event: Any = None
    media_type: str | None = None
    errors: tuple[int, ...] = ()
    error: Any = None
    parameters: tuple[Parameter, ...] = ()
    protected: bool = True
