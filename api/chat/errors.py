"""Refusals of a conversation; see docs/compatibility.md, Errors and limits."""

from ..http.errors import ApiError


class InvalidRequestError(ApiError):
    """A field has a value that this server doesn't take."""

    status = 422
    error_type = "validation"
    failure = "validation"

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(f"Input validation error: {reason}")
        self.param = param


class ToolError(ApiError):
    """The tools, or what is chosen of them, make no sense."""

    status = 422
    error_type = "tool_error"
    failure = "validation"
    param = "tools"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Tool error: {reason}")
