"""Messages in the roles that a model's template shows: nothing that a client sent is lost on the way to the prompt.

Templates skip what they don't know without a word, or refuse it. What one does is found out once, by rendering small
conversations with a mark in them.
"""

import json
from typing import Any

from .chat_template import ChatTemplate, TemplateError

Message = dict[str, Any]

_MARK = "qxmarkxq"
_USER = {"role": "user", "content": "a"}
_ANSWER = {"role": "assistant", "content": "b"}
# Mistral's templates refuse ids of another length.
_RESULT = {"role": "tool", "content": "d", "tool_call_id": "abcdefghi", "name": "f"}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {}}}
_PARAMETERS = {"type": "object", "properties": {}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": _PARAMETERS}}

_MARKED_CALL = _CALL | {"function": {"name": "f", "arguments": {"x": _MARK}}}

_MADE = {"role": "user", "made": True}  # of something else

# Where each kind of message is looked for. later: a system message that is not the first of all.
_PROBES: dict[str, list[Message]] = {
    "system": [{"role": "system", "content": _MARK}, _USER],
    "only system": [{"role": "system", "content": _MARK}],
    "later system": [{"role": "system", "content": "c"}, _USER, _ANSWER, {"role": "system", "content": _MARK}, _USER],
    "developer": [{"role": "developer", "content": _MARK}, _USER],
    "tool": [
        _USER,
        {"role": "assistant", "tool_calls": [_CALL]},
        _RESULT | {"content": _MARK},
    ],
    "several calls": [_USER, {"role": "assistant", "tool_calls": [_CALL, _MARKED_CALL]}, _RESULT, _RESULT],
    "second user": [_USER, {"role": "user", "content": _MARK}],
}


class RoleSupport:
    """A template, and which messages it shows: found out when it is first asked."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._known: dict[tuple[str, bool], bool] = {}

    async def shows(self, kind: str, with_tools: bool) -> bool:
        """Whether a message of that kind is in the prompt, once. ``kind``: of _PROBES, else a role."""
        found = self._known.get((kind, with_tools))
        if found is None:
            messages = _PROBES.get(kind) or [_USER, {"role": kind, "content": _MARK}]
            try:
                plain = [calls_as_text(message, self.template) for message in messages]
                text = await self.template.render(plain, tools=[_TOOL] if with_tools else None)
                found = text.count(_MARK) == 1
            except TemplateError:
                found = False
            self._known[kind, with_tools] = found
        return found


async def in_known_roles(messages: list[Message], support: RoleSupport, with_tools: bool) -> list[Message]:
    """The conversation with every message in a role that the template shows. Raises TemplateError for a strange role.

    A developer's message becomes a system message, that a part of a user's turn, a tool's result a user's turn.
    """

    async def shows(kind: str) -> bool:
        return await support.shows(kind, with_tools)

    messages = _results_of_functions(messages)
    if any(len(message.get("tool_calls", ())) > 1 for message in messages) and not await shows("several calls"):
        messages = _one_call_each(messages)
    names = {call.get("id"): call["function"]["name"] for message in messages for call in message.get("tool_calls", ())}
    has_turns = any(message["role"] != "system" for message in messages)
    may_repeat = await shows("second user")
    found: list[Message] = []
    pending: list[str] = []  # system texts for the user's next turn
    for message in messages:
        role = message["role"]
        if role == "developer" and not await shows(role):
            role = "system"
        if role == "user":
            _add_turn(found, _joined(*pending, message["content"]), may_repeat, message)
            pending = []
        elif role == "system":
            only_systems = bool(found) and all(one["role"] == "system" for one in found)
            kind = "later system" if found else "system" if has_turns else "only system"
            if await shows(kind):
                found.append(message | {"role": role})
            elif only_systems:
                found[-1] = found[-1] | {"content": _joined(found[-1]["content"], message["content"])}
            else:
                pending.append(message["content"])
        elif role == "tool" and not await shows(role):
            name = message.get("name") or names.get(message.get("tool_call_id"))
            text = json.dumps({"name": name, "content": message["content"]}, ensure_ascii=False)
            _add_turn(found, _joined(*pending, text), may_repeat, _MADE)
            pending = []
        elif role != "assistant" and not await shows(role):
            raise TemplateError(f"the model's template knows no role {role!r}")
        else:
            found.append(message)
    if pending:  # no turn of the user follows
        last = last_user(found)
        last["content"] = _joined(*([last["content"]] if last["content"] else []), *pending)
    return [{key: value for key, value in message.items() if key != "made"} for message in found]


def last_user(messages: list[Message]) -> Message:
    """The last message of the user, a new one at the end if there is none."""
    for message in reversed(messages):
        if message["role"] == "user":
            return message
    messages.append({"role": "user", "content": ""})
    return messages[-1]


def calls_as_text(message: Message, template: ChatTemplate) -> Message:
    """The message with its calls written out, if the template would show nothing of them or stumble over them."""
    if not message.get("tool_calls") or "tool_calls" in template.source:
        return message
    calls = [json.dumps(call["function"], ensure_ascii=False, separators=(",", ":")) for call in message["tool_calls"]]
    text = (message.get("content") or "") + "\n".join(calls)
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": text}


def _results_of_functions(messages: list[Message]) -> list[Message]:
    """OpenAI's role before there were tools, as results of the last call of the same function."""
    found = []
    ids: dict[str, str] = {}
    for message in messages:
        ids |= {call["function"]["name"]: call.get("id") for call in message.get("tool_calls", ())}
        if message["role"] == "function":
            message = message | {"role": "tool", "tool_call_id": ids.get(message.get("name", ""), "")}
        found.append(message)
    return found


def _one_call_each(messages: list[Message]) -> list[Message]:
    """Several calls of one message as several messages, each with its result behind it."""
    found: list[Message] = []
    results = {message.get("tool_call_id"): message for message in messages if message["role"] == "tool"}
    taken: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            found += [message] if not any(message is one for one in taken) else []
            continue
        for index, call in enumerate(calls):
            found.append({key: value for key, value in message.items() if key != "content" or index == 0})
            found[-1]["tool_calls"] = [call]
            if (result := results.get(call.get("id"))) is not None:
                found.append(result)
                taken.append(result)
    return found


def _add_turn(found: list[Message], text: str, may_repeat: bool, message: Message) -> None:
    """A user's turn; it becomes part of the one before if one of them was made here and the template wants turns."""
    last = found[-1] if found else {}
    if last.get("role") == "user" and not may_repeat and ("made" in message or "made" in last):
        found[-1] = last | {"content": _joined(last["content"], text)}
    else:
        found.append(message | {"content": text})


def _joined(*texts: str) -> str:
    return "\n\n".join(texts)
