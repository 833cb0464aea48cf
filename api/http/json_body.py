"""JSON bodies: their integer types, and what is wrong with one, in the words and status of TGI's HTTP layer."""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from .errors import TransportError

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Size = Annotated[int, Meta(ge=0)]

_BYTE = re.compile(r"^JSON is malformed: (.*) \(byte (\d+)\)$")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_PATH = re.compile(r"^(.*) - at `\$\.?(.*)`$")


T = TypeVar("T")


def convert_json(body: Any, kind: type[T]) -> T:
    """A body that was decoded without a type, as one. Raises TransportError, 422, if it has another shape."""
    try:
        return msgspec.convert(body, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise json_error(error, b"") from None


def json_error(error: Exception, body: bytes) -> TransportError:
    """422 if the JSON is good and its shape is not, 400 if it isn't JSON.

    Args:
        error: what decoding raised: a msgspec error, or UnicodeDecodeError or RecursionError, which it lets through.
    """
    if isinstance(error, msgspec.ValidationError):
        reason = str(error)
        if (match := _PATH.match(reason)) is not None:
            reason = f"{match[2]}: {match[1]}"
        return TransportError(422, f"Failed to deserialize the JSON body into the target type: {reason}")
    position = len(body)
    if isinstance(error, UnicodeDecodeError):
        reason = "invalid unicode code point"
    elif isinstance(error, RecursionError):
        reason = "recursion limit exceeded"
    elif (match := _BYTE.match(str(error))) is not None:
        reason, position = match[1], int(match[2])
    elif _HIGH_SURROGATE.search(body) is not None:  # msgspec calls a lone one truncated input, too
        reason = "lone leading surrogate in hex escape, or EOF while parsing"
    else:
        reason = "EOF while parsing" if "truncated" in str(error) else str(error)
    before = body[:position]
    line = before.count(b"\n") + 1
    column = position - (before.rfind(b"\n") + 1)
    return TransportError(400, f"Failed to parse the request body as JSON: {reason} at line {line} column {column}")
