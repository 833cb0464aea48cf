"""From messages to the prompt: the model's chat template, and what is done for one that knows nothing of tools."""

import re
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from ..text.chat_roles import calls_as_text, in_known_roles, last_user
from ..text.chat_template import ChatTemplate, TemplateError
from ..text.chat_template_files import ChatTemplates
from .errors import InvalidRequestError
from .request import ChatRequest, Message
from .tools.choice import TOOL_PROMPT, Tools

# Variables that a request sets by fields of its own.
_NINE = re.compile(r"length\s*!=\s*9\b")
_RESERVED = frozenset(["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"])
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Prompt(Struct, frozen=True):
    """Text of a prompt, and the template that made it, which shows how its model writes calls and thoughts."""

    text: str
    template: str
    continued: str = ""  # the end of it, if that is a message to go on with


async def prompt_of(request: ChatRequest, tools: Tools | None, templates: ChatTemplates) -> Prompt:
    """Render the conversation. Raises TemplateError, InvalidRequestError."""
    roles = templates.choose(with_tools=tools is not None)
    if roles is None:
        raise TemplateError("template not found")
    template = roles.template
    if not request.messages:
        raise InvalidRequestError("`messages` cannot be empty", "messages")
    messages = [calls_as_text(_plain(each, index), template) for index, each in enumerate(request.messages)]
    if tools is not None and (request.tool_prompt or "tools" not in template.variables):
        _explain(last_user(messages), tools, template, request.tool_prompt)
    messages = await in_known_roles(messages, roles, with_tools=tools is not None)
    messages = with_short_ids(messages, template.source)
    variables = _variables(request)
    continues = _continues(request)
    generation_prompt = not continues if request.add_generation_prompt is None else request.add_generation_prompt
    if continues and generation_prompt:
        raise InvalidRequestError("`continue_final_message` and `add_generation_prompt` exclude each other", "messages")
    text = await template.render(
        messages,
        tools=None if tools is None else [_as_schema(tool) for tool in tools.raw],
        documents=request.documents,
        add_generation_prompt=generation_prompt,
        continue_final_message=continues,
        **variables,
    )
    return Prompt(text, template.source, (messages[-1].get("content") or "") if continues else "")


def with_short_ids(messages: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
    """Ids of calls in the form that a template wants: Mistral's refuse any but 9 letters and digits.

    Conversations come from other models and servers; the same id becomes the same.
    """
    if _NINE.search(template) is None:
        return messages
    found = []
    for message in messages:
        if (of := message.get("tool_call_id")) is not None:
            message = message | {"tool_call_id": _short_id(of)}
        if calls := message.get("tool_calls"):
            message = message | {"tool_calls": [call | {"id": _short_id(call.get("id") or "")} for call in calls]}
        found.append(message)
    return found


def _short_id(given: str) -> str:
    if len(given) == 9 and given.isalnum():
        return given
    return blake2b(given.encode(errors="replace"), digest_size=8).hexdigest()[:9]


def _variables(request: ChatRequest) -> dict[str, Any]:
    """What else the template may read; what it doesn't know changes nothing. Raises InvalidRequestError."""
    variables = request.chat_template_kwargs or {}
    if taken := sorted(_RESERVED & variables.keys()):
        raise InvalidRequestError(f"`chat_template_kwargs` cannot set {taken[0]}", "chat_template_kwargs")
    effort = request.reasoning_effort
    if effort is None:
        return variables
    if effort not in _EFFORTS:
        raise InvalidRequestError(f"`reasoning_effort` must be one of {', '.join(_EFFORTS)}", "reasoning_effort")
    return thinking_variables(effort != "none") | {"reasoning_effort": effort} | variables


def thinking_variables(wanted: bool) -> dict[str, bool]:
    """Whether the model shall think, by the names that templates have for it."""
    return {"enable_thinking": wanted, "thinking": wanted}


def _continues(request: ChatRequest) -> bool:
    """As in TGI, an assistant's message at the end is one to go on with, unless the request says otherwise."""
    if request.continue_final_message is not None:
        return request.continue_final_message
    last = request.messages[-1]
    return last.role == "assistant" and bool(last.content) and not last.tool_calls and not request.add_generation_prompt


def _plain(message: Message, index: int) -> dict[str, Any]:
    """A message as templates know it: text content, arguments of calls as objects, no empty keys."""
    where = f"messages[{index}]"
    content = _text(message, where)
    calls = [_call(call, where) for call in message.tool_calls or ()]
    if content is None and not calls:
        if message.role != "assistant":
            raise InvalidRequestError(f"{where}: content is missing", "messages")
        content = ""
    plain = {
        "role": message.role,
        "content": content,
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
        "reasoning": message.reasoning,
    }
    return {key: value for key, value in plain.items() if value is not None}


def _text(message: Message, where: str) -> str | None:
    if not isinstance(message.content, list):
        return message.content
    for part in message.content:
        if part.type != "text":
            raise InvalidRequestError(
                f"{where}: content of type `{part.type}` is not supported, only `text`", "messages"
            )
        if part.text is None:
            raise InvalidRequestError(f"{where}: a part of type `text` has no text", "messages")
    return "".join(part.text or "" for part in message.content)


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    """A call as the request has it, but for its arguments: clients send their text, template authors expect objects."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{where}: a tool call has no function name", "messages")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        with suppress(msgspec.DecodeError, RecursionError):  # the model wrote it, and has to live with it
            arguments = msgspec.json.decode(arguments) if arguments.strip() else {}
    function = {key: value for key, value in function.items() if key != "parameters"} | {"arguments": arguments}
    return call | {"function": function}


def _as_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as templates know it: TGI's clients may write ``arguments`` for ``parameters``."""
    function = tool["function"]
    if "parameters" in function or "arguments" not in function:
        return tool
    renamed = {"parameters" if key == "arguments" else key: value for key, value in function.items()}
    return tool | {"function": renamed}


def _explain(message: dict[str, Any], tools: Tools, template: ChatTemplate, prompt: str | None) -> None:
    """Tell the model of its tools at the end of a message, in TGI's words and order."""
    text = f"\n---\n{prompt or TOOL_PROMPT}"
    if "tools" not in template.variables:
        listed = msgspec.json.encode([_as_schema(tool) for tool in tools.raw]).decode()
        text = f"\n---\n{listed}\n{prompt or TOOL_PROMPT}"
    message["content"] = message.get("content", "") + text
