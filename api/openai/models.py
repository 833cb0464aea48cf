"""GET /v1/models and /v1/models/{id}: the one model that is served."""

from urllib.parse import unquote

import msgspec

from ..http.connection import Connection
from ..service import Service
from .errors import UnknownModelError
from .schema import Model, ModelList

MODEL_PREFIX = "/v1/models/"


async def models(service: Service, connection: Connection) -> None:
    """GET /v1/models."""
    await connection.respond(200, msgspec.json.encode(ModelList([_model(service)])), b"application/json")


async def model(service: Service, connection: Connection) -> None:
    """GET /v1/models/{id}; an id may have slashes."""
    name = unquote(connection.path.removeprefix(MODEL_PREFIX))
    if name != service.config.model_id:
        raise UnknownModelError(name)
    await connection.respond(200, msgspec.json.encode(_model(service)), b"application/json")


def _model(service: Service) -> Model:
    model_id = service.config.model_id
    return Model(model_id, 0, model_id)  # when it was made isn't known; TGI says 0, too
