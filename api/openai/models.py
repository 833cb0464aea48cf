"""GET /v1/models and /v1/models/{id}: the model that is served, and its adapters as vLLM lists them."""

from urllib.parse import unquote

import msgspec

from ..generation.service import Service
from ..http.connection import Connection
from .errors import UnknownModelError
from .schema import Model, ModelList


async def models(service: Service, connection: Connection) -> None:
    """GET /v1/models."""
    await connection.respond(200, msgspec.json.encode(ModelList(_models(service))), b"application/json")


async def model(service: Service, connection: Connection) -> None:
    """GET /v1/models/{id}; an id may have slashes."""
    name = unquote(connection.path_params["id"])
    found = next((model for model in _models(service) if model.id == name), None)
    if found is None:
        raise UnknownModelError(name)
    await connection.respond(200, msgspec.json.encode(found), b"application/json")


def _models(service: Service) -> list[Model]:
    model_id = service.config.model_id
    adapters = service.engine.adapters.listed.adapters
    # When they were made isn't known; TGI says 0, too.
    return [
        Model(model_id, 0, model_id),
        *(Model(adapter.name, 0, model_id, parent=model_id) for adapter in adapters),
    ]
