"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter: adapters that come and go while the server runs."""

from ...engine.messages import AdapterAnswer
from ..engine_client.remote_sequence import EngineError
from ..generation.service import Service
from ..http.connection import Connection
from ..http.error_body import TEXT
from ..http.errors import ApiError, GenerationError
from .schema import LoadAdapterRequest, UnloadAdapterRequest

_STATUSES = {"invalid": 400, "unknown": 404}


class AdapterRefusedError(ApiError):
    """The engine cannot load the adapter, or has none of that name. The statuses are vLLM's."""

    failure = "validation"
    error_type = "adapter"

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


async def load_adapter(service: Service, connection: Connection, request: LoadAdapterRequest) -> None:
    """POST /v1/load_lora_adapter: answered once requests may name it. Raises ApiError."""
    if request.lora_name in ("", "tgi", service.config.model_id):
        raise AdapterRefusedError(f"`lora_name` must not be '{request.lora_name}': that is the model itself")
    try:
        answer = await service.engine.adapters.load(request.lora_name, request.lora_path)
    except EngineError as error:
        raise GenerationError(str(error)) from error
    await _respond(connection, answer, f"Success: LoRA adapter '{request.lora_name}' added successfully.")


async def unload_adapter(service: Service, connection: Connection, request: UnloadAdapterRequest) -> None:
    """POST /v1/unload_lora_adapter: no request may name it from now on; those that did go on. Raises ApiError."""
    try:
        answer = await service.engine.adapters.unload(request.lora_name)
    except EngineError as error:
        raise GenerationError(str(error)) from error
    await _respond(connection, answer, f"Success: LoRA adapter '{request.lora_name}' removed successfully.")


async def _respond(connection: Connection, answer: AdapterAnswer, text: str) -> None:
    if answer.error is not None:
        raise AdapterRefusedError(answer.error, _STATUSES[answer.error_type or "invalid"])
    await connection.respond(200, text.encode(), TEXT)
