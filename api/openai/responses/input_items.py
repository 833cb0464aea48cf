"""GET /v1/responses/{id}/input_items: the conversation that a kept response answers, item by item."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from ...chat.errors import InvalidRequestError
from ...chat.request import Message
from ...generation.service import Service
from ...http.connection import Connection
from .schema import FunctionCallItem, ItemStatus, OutputText, ReasoningItem, ReasoningText
from .store import ResponseStore

_MOST, _USUAL = 100, 20


class InputText(Struct, tag_field="type", tag="input_text"):
    """Text of a message that was sent."""

    text: str


class ListedMessage(Struct, tag_field="type", tag="message"):
    """What was said, by whomever."""

    id: str
    role: str
    content: list[InputText | OutputText]
    status: ItemStatus = "completed"


class FunctionCallOutputItem(Struct, tag_field="type", tag="function_call_output"):
    """What came of a call."""

    id: str
    call_id: str
    output: str
    status: ItemStatus = "completed"


ListedItem = ListedMessage | ReasoningItem | FunctionCallItem | FunctionCallOutputItem


class InputItemList(Struct, tag_field="object", tag="list"):
    """Answer of GET /v1/responses/{id}/input_items."""

    data: list[ListedItem]
    first_id: str
    last_id: str
    has_more: bool


async def input_items(_service: Service, connection: Connection) -> None:
    """The newest first, unless ``order`` is ``asc``; a page of ``limit`` behind the item ``after``. Raises ApiError."""
    response_id, query = connection.path_params["id"], connection.query
    stored = ResponseStore(connection).get(response_id)
    items = list(_items(stored.messages, response_id.partition("_")[2]))
    if (order := query.get("order", "desc")) not in ("asc", "desc"):
        raise InvalidRequestError("`order` must be `asc` or `desc`", "order")
    if order == "desc":
        items.reverse()
    given = query.get("limit", str(_USUAL))
    if not given.isdecimal() or not 1 <= int(given[:4]) <= _MOST:
        raise InvalidRequestError(f"`limit` must be from 1 to {_MOST}", "limit")
    if (after := query.get("after")) is not None:
        places = [place for place, item in enumerate(items) if item.id == after]
        if not places:
            raise InvalidRequestError(f"`after`: there is no item {after!r}", "after")
        items = items[places[0] + 1 :]
    page = items[: int(given)]
    first, last = (page[0].id, page[-1].id) if page else ("", "")
    found = InputItemList(page, first, last, has_more=len(items) > len(page))
    await connection.respond(200, msgspec.json.encode(found), b"application/json")


def _items(messages: list[Message], key: str) -> Iterator[ListedItem]:
    """Those of a conversation in its order."""
    for index, message in enumerate(messages):
        place, text = f"{key}_in{index}", message.content if isinstance(message.content, str) else ""
        if message.role == "tool":
            yield FunctionCallOutputItem(f"fco_{place}", message.tool_call_id or "", text)
            continue
        if message.reasoning_content:
            yield ReasoningItem(f"rs_{place}", "completed", [ReasoningText(message.reasoning_content)])
        if text or not (message.tool_calls or message.reasoning_content):
            said = OutputText(text) if message.role == "assistant" else InputText(text)
            yield ListedMessage(f"msg_{place}", message.role, [said])
        for number, call in enumerate(message.tool_calls or ()):
            function = call["function"]
            yield FunctionCallItem(
                f"fc_{place}_{number}", "completed", call["id"], function["name"], function["arguments"]
            )
