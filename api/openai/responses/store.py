"""Answers that are kept for the turn after next, and by whom they are found: all workers share them."""

import msgspec
from msgspec import Struct

from ...chat.request import Message
from ...http.connection import Connection
from ...resume.documents import Documents
from ...resume.middleware import SCOPE_KEY, ResumeMiddleware
from ..errors import ResponseNotFoundError
from .schema import OutputItem, Response
from .translate import output_messages

_encode = msgspec.json.Encoder().encode


class StoredResponse(Struct):
    """A response, and the conversation that it answers."""

    response: Response
    messages: list[Message]  # without instructions, which are for one response alone

    @property
    def conversation(self) -> list[Message]:
        """The messages, and the answer."""
        return [*self.messages, *output_messages(self.response.output)]


_decode = msgspec.json.Decoder(StoredResponse).decode


class ResponseStore:
    """The responses of this server."""

    def __init__(self, connection: Connection) -> None:
        """``connection``: of the request at hand."""
        middleware: ResumeMiddleware = connection.scope[SCOPE_KEY]
        self._documents: Documents = middleware.documents

    @property
    def keeps(self) -> bool:
        """Whether it keeps any."""
        return self._documents.age_s > 0

    def put(self, stored: StoredResponse) -> None:
        """Keep a response, in place of what it was before."""
        self._documents.put(stored.response.id, _encode(stored))

    def get(self, response_id: str) -> StoredResponse:
        """The one of that id. Raises ResponseNotFoundError."""
        data = self._documents.get(response_id)
        if data is None:
            raise ResponseNotFoundError(f"Response with id {response_id!r} not found")
        return _decode(data)

    def delete(self, response_id: str) -> None:
        """Forget one. Raises ResponseNotFoundError."""
        if not self._documents.delete(response_id):
            raise ResponseNotFoundError(f"Response with id {response_id!r} not found")

    def item(self, item_id: str) -> OutputItem:
        """An item of a response that is kept. Raises ResponseNotFoundError."""
        key = item_id.partition("_")[2].rpartition("_")[0]
        data = self._documents.get(f"resp_{key}")
        output = [] if data is None else _decode(data).response.output
        for item in output:
            if item.id == item_id:
                return item
        raise ResponseNotFoundError(f"Item with id {item_id!r} not found")
