"""GET /v1/models and /v1/models/{id}: the one model that is served."""

from urllib.parse import unquote

import msgspec

from ..generation.service import Service
from ..http.connection import Connection
from .errors import UnknownModelError
from .schema import Model, ModelList


async def models(service: Service, connection: Connection) -> None:
    """GET /v1/models."""
    await connection.respond(200, msgspec.json.encode(ModelList([_model(service)])), b"application/json")


async def model(service: Service, connection: Connection) -> None:
    """GET /v1/models/{id}; an id may have slashes."""
    name = unquote(connection.path_params["id"])
    if name != service.config.model_id:
        raise UnknownModelError(name)
    await connection.respond(200, msgspec.json.encode(_model(service)), b"application/json")


def _model(service: Service) -> Model:
    model_id = service.config.model_id
    return Model(model_id, 0, model_id)  # when it was made isn't known; TGI says 0, too
