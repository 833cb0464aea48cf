"""Responses that were kept: GET, DELETE and POST .../cancel of /v1/responses/{id}."""

from contextlib import suppress

import msgspec

from ...chat.errors import InvalidRequestError
from ...generation.service import Service
from ...http.connection import Connection
from ...http.errors import StreamNotFoundError
from ...resume.reconnect import drop, look_after, send_on
from .schema import DeletedResponse, Response, ResponseError
from .store import ResponseStore, StoredResponse

_JSON = b"application/json"
_RUNNING = ("queued", "in_progress")


async def get_response(_service: Service, connection: Connection) -> None:
    """GET /v1/responses/{id}: as it is now; one in the background may be streamed again. Raises ApiError."""
    store, response_id = ResponseStore(connection), connection.path_params["id"]
    stored = store.get(response_id)
    if connection.query.get("stream") == "true":
        if not stored.response.background:
            raise InvalidRequestError("only a response with `background` can be streamed again", "stream")
        await send_on(connection, _stream_id(response_id), _starting_after(connection) + 1)
        return
    if stored.response.status in _RUNNING:
        stored = await _running(connection, store, stored)
    await _respond(connection, stored.response)


async def cancel_response(_service: Service, connection: Connection) -> None:
    """POST /v1/responses/{id}/cancel: of one in the background. Raises ApiError."""
    store, response_id = ResponseStore(connection), connection.path_params["id"]
    stored = store.get(response_id)
    if not stored.response.background:
        raise InvalidRequestError("only a response with `background` can be cancelled")
    if stored.response.status in _RUNNING:
        await _drop(connection, response_id)
        stored = store.get(response_id)  # it may have ended in the meantime
        if stored.response.status in _RUNNING:
            stored.response.status = "cancelled"
            store.put(stored)
    await _respond(connection, stored.response)


async def delete_response(_service: Service, connection: Connection) -> None:
    """DELETE /v1/responses/{id}: one that runs ends. Raises ApiError."""
    store, response_id = ResponseStore(connection), connection.path_params["id"]
    stored = store.get(response_id)
    if stored.response.background:
        await _drop(connection, response_id)
    store.delete(response_id)
    await connection.respond(200, msgspec.json.encode(DeletedResponse(response_id, True)), _JSON)


async def _running(connection: Connection, store: ResponseStore, stored: StoredResponse) -> StoredResponse:
    """One that has not ended: if its worker has died, this one goes on with it."""
    response_id = stored.response.id
    try:
        await look_after(connection, _stream_id(response_id))
    except StreamNotFoundError:
        stored = store.get(response_id)  # it may have ended in the meantime
        if stored.response.status in _RUNNING:
            stored.response.status = "failed"
            stored.response.error = ResponseError("server_error", "The response's worker died, and it can't go on")
            store.put(stored)
    return stored


async def _drop(connection: Connection, response_id: str) -> None:
    with suppress(StreamNotFoundError):  # it has ended, or its worker has died
        await drop(connection, _stream_id(response_id))


def _stream_id(response_id: str) -> str:
    return response_id.removeprefix("resp_")


def _starting_after(connection: Connection) -> int:
    """Number of the last event that the client has, -1: none."""
    given = connection.query.get("starting_after")
    if given is None:
        return -1
    if not given.isdigit() or len(given) > 18:
        raise InvalidRequestError("`starting_after` must be the `sequence_number` of an event", "starting_after")
    return int(given)


async def _respond(connection: Connection, response: Response) -> None:
    await connection.respond(200, msgspec.json.encode(response), _JSON)
