"""How an error looks to a client: TGI's form on its own routes, OpenAI's below /v1/, Anthropic's for messages."""

import msgspec
from msgspec import Struct

from .errors import ApiError, TransportError

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

_OPENAI_PREFIX = "/v1/"
_ANTHROPIC_PREFIX = "/v1/messages"


class ErrorResponse(Struct):
    """A refusal or failure on one of TGI's routes."""

    error: str
    error_type: str


class OpenAIError(Struct):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorResponse(Struct):
    """A refusal or failure on an OpenAI route."""

    error: OpenAIError


class AnthropicError(Struct):
    """What is wrong, as Anthropic's clients read it."""

    type: str
    message: str


class AnthropicErrorResponse(Struct, tag_field="type", tag="error"):
    """A refusal or failure on a route of the Messages API, and the event that ends a stream."""

    error: AnthropicError


def error_body(path: str, error: ApiError | TransportError) -> tuple[bytes, bytes]:
    """Body and content type of the answer to a request for ``path``."""
    if path.startswith(_ANTHROPIC_PREFIX):
        return anthropic_error(error), JSON
    if path.startswith(_OPENAI_PREFIX):
        return openai_error(error), JSON
    if isinstance(error, TransportError):
        return error.text.encode(), TEXT if error.text else b""
    return native_error(error), JSON


def native_error(error: ApiError) -> bytes:
    """``{"error": text, "error_type": kind}``: clients choose their exception by the latter."""
    return msgspec.json.encode(ErrorResponse(error.error, error.error_type))


def openai_error(error: ApiError | TransportError) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}``; the status is the answer's."""
    if isinstance(error, TransportError):
        message, code, param = error.text or _REASONS.get(error.status, "Request refused"), None, None
        if error.status == 401:
            code = "invalid_api_key"
    else:
        message, code, param = error.error, getattr(error, "code", error.error_type), getattr(error, "param", None)
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return msgspec.json.encode(OpenAIErrorResponse(OpenAIError(message, kind, param, code)))


def anthropic_error(error: ApiError | TransportError) -> bytes:
    """``{"type": "error", "error": {"type", "message"}}``; the status is the answer's."""
    if isinstance(error, TransportError):
        message = error.text or _REASONS.get(error.status, "Request refused")
    else:
        message = error.error
    kind = _ANTHROPIC_KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return msgspec.json.encode(AnthropicErrorResponse(AnthropicError(kind, message)))


_ANTHROPIC_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "api_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_REASONS = {401: "Incorrect API key provided"}
_KINDS = {401: "authentication_error", 424: "server_error", 429: "rate_limit_error"}
