"""Refusals that only the OpenAI routes know; see docs/compatibility.md, Errors and limits."""

from ..http.errors import ApiError


class BatchSizeError(ApiError):
    """More prompts than one request may have."""

    status = 422
    error_type = "batch size exceeded"
    failure = "validation"
    param = "prompt"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Number of prompts exceeds the maximum allowed batch size of {limit}")


class SuffixError(ApiError):
    """Nothing can be generated in front of a given text."""

    status = 422
    error_type = "suffix not supported"
    failure = "validation"
    param = "suffix"

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


class UnknownModelError(ApiError):
    """GET /v1/models/{id} of a model that isn't here."""

    status = 404
    error_type = "model_not_found"
    failure = "validation"
    param = "model"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model '{model}' does not exist")


class ResponseNotFoundError(ApiError):
    """A response, or an item of one, that was not kept, or no longer is."""

    status = 404
    error_type = "not_found"
    failure = "validation"
