"""POST /invocations: what SageMaker sends, a body of POST /, of /v1/chat/completions or of /v1/completions."""

from typing import Any

import msgspec

from ..chat.request import ChatRequest
from ..generation.service import Service
from ..http.connection import Connection
from ..http.errors import TransportError
from ..openai.chat import chat_completions
from ..openai.completions import completions
from ..openai.schema import CompletionRequest
from ..tgi.generate import compat_generate
from ..tgi.schema import CompatGenerateRequest

_NO_VARIANT = "data did not match any variant of untagged enum SagemakerRequest"

# Which body it is, by the first of these that is there, and who answers it.
_VARIANTS: dict[str, tuple[Any, Any]] = {
    "inputs": (CompatGenerateRequest, compat_generate),
    "messages": (ChatRequest, chat_completions),
    "prompt": (CompletionRequest, completions),
}


async def invocations(service: Service, connection: Connection, body: Any) -> None:
    """Answered as on the route that the body is of. Raises TransportError, ApiError."""
    for key, (kind, answer) in _VARIANTS.items():
        if isinstance(body, dict) and body.get(key) is not None:
            try:
                request = msgspec.convert(body, kind, str_keys=True)
            except msgspec.ValidationError:
                break
            await answer(service, connection, request)
            return
    raise TransportError(422, _NO_VARIANT)
