"""Items as the messages of a conversation, and a body of the Responses API as the request of one."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...chat.errors import InvalidRequestError
from ...chat.request import AllowedTools, ChatRequest, FunctionName, Message, ToolChoice
from ...text.grammar import AnyGrammar, JsonObjectGrammar, JsonSchemaGrammar, NamedSchema
from .schema import InputItem, InputPart, OutputItem, ResponsesRequest, TextFormat

_TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (LOGPROBS, "reasoning.encrypted_content")  # the second changes nothing: thoughts are there as text
_REFUSED = ("prompt", "conversation", "context_management", "moderation")

FindItem = Callable[[str], OutputItem]  # that of an answer before, by its id; raises ApiError


def check_supported(request: ResponsesRequest) -> None:
    """Raises InvalidRequestError, which names a field that asks for what this server can't do."""
    for name in _REFUSED:
        if getattr(request, name):
            raise InvalidRequestError(f"`{name}` is not supported", name)
    if wrong := [one for one in request.include or () if one not in _INCLUDED]:
        raise InvalidRequestError(f"`include` of `{wrong[0]}` is not supported", "include")
    if request.top_logprobs and not wants_logprobs(request):
        raise InvalidRequestError(f"`top_logprobs` needs `include` of `{LOGPROBS}`", "top_logprobs")
    if request.truncation not in (None, "disabled"):
        raise InvalidRequestError(
            "`truncation` must be `disabled`: nothing is left out of a conversation", "truncation"
        )


def wants_logprobs(request: ResponsesRequest) -> bool:
    """Of the answer's text."""
    return LOGPROBS in (request.include or ())


def chat_request(request: ResponsesRequest, conversation: Sequence[Message]) -> ChatRequest:
    """The same in terms of chat completions. Raises InvalidRequestError.

    Args:
        conversation: what was said before, and the input.
    """
    first = [Message("system", request.instructions)] if request.instructions else []
    chat = ChatRequest(
        messages=[*first, *conversation],
        model=request.model,
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        parallel_tool_calls=request.parallel_tool_calls,
        chat_template_kwargs=request.chat_template_kwargs,
        reasoning_effort=None if request.reasoning is None else request.reasoning.effort,
        logprobs=wants_logprobs(request),
        top_logprobs=request.top_logprobs,
        add_generation_prompt=True,
        priority=request.priority,
        cache_salt=request.cache_salt,
        timeout=request.timeout,
    )
    if request.tools:
        chat.tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    if request.tool_choice is not None:
        chat.tool_choice = _tool_choice(request.tool_choice)
    if request.text is not None and request.text.format is not None:
        chat.response_format = _response_format(request.text.format)
    return chat


def messages_of(given: str | list[InputItem], find: FindItem) -> list[Message]:
    """The input as messages: thoughts, text and calls that follow one another are one turn of the assistant's.

    Raises ApiError.
    """
    if isinstance(given, str):
        return [Message("user", given)]
    found: list[Message] = []
    for index, item in enumerate(given):
        where = f"input[{index}]"
        if item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None):
            item = _as_input(find(_required(item.id, "id", where)))
        _add(found, item, where)
    return found


def _as_input(item: OutputItem) -> InputItem:
    return msgspec.convert(msgspec.to_builtins(item), InputItem)


def output_messages(output: Sequence[OutputItem]) -> list[Message]:
    """An answer as messages of the next turn's conversation."""
    found: list[Message] = []
    for item in output:
        _add(found, _as_input(item), "output")
    return found


def _add(messages: list[Message], item: InputItem, where: str) -> None:
    last = messages[-1] if messages and messages[-1].role == "assistant" else None
    match item.type:
        case None | "message":
            role, text = _required(item.role, "role", where), _text(item.content, where)
            if role == "assistant" and last is not None and last.content is None and not last.tool_calls:
                last.content = text
            else:
                messages.append(Message(role, text))
        case "reasoning":
            thoughts = _text(item.content, where) or "\n\n".join(_text([one], where) for one in item.summary or ())
            if thoughts:
                messages.append(Message("assistant", reasoning_content=thoughts))
        case "function_call":
            if last is None:
                last = Message("assistant")
                messages.append(last)
            function = {"name": _required(item.name, "name", where), "arguments": item.arguments or ""}
            call = {"id": _required(item.call_id, "call_id", where), "type": "function", "function": function}
            last.tool_calls = [*(last.tool_calls or ()), call]
        case "function_call_output":
            of = _required(item.call_id, "call_id", where)
            messages.append(Message("tool", _text(item.output, where), tool_call_id=of))
        case kind:
            raise InvalidRequestError(f"{where}: an item of type `{kind}` is not supported", "input")


def _text(content: str | list[InputPart] | None, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in (*_TEXT_PARTS, "refusal") or text is None:
            raise InvalidRequestError(f"{where}: content of type `{part.type}` is not supported, only text", "input")
        texts.append(text)
    return "".join(texts)


def _required(value: str | None, name: str, where: str) -> str:
    if value is None:
        raise InvalidRequestError(f"{where}: `{name}` is missing", "input")
    return value


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """A function's name lies beside the type here, one level below in chat completions."""
    if tool.get("type") != "function":
        kind = tool.get("type")
        raise InvalidRequestError(f"{where}: type `{kind}` is not supported: this server runs no tools", "tools")
    known = ("name", "description", "parameters", "strict")
    function = {key: tool[key] for key in known if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any]) -> str | ToolChoice:
    if isinstance(choice, str):
        return choice
    match choice:
        case {"type": "function", "name": str(name)}:
            return ToolChoice(function=FunctionName(name))
        case {"type": "allowed_tools", "tools": list(tools)}:
            allowed = AllowedTools(tools, "required" if choice.get("mode") == "required" else "auto")
            return ToolChoice("allowed_tools", allowed_tools=allowed)
    raise InvalidRequestError(f"`tool_choice` of type `{choice.get('type')}` is not supported", "tool_choice")


def _response_format(wanted: TextFormat) -> AnyGrammar | None:
    match wanted.type:
        case "text":
            return None
        case "json_object":
            return JsonObjectGrammar()
        case "json_schema":
            return JsonSchemaGrammar(json_schema=NamedSchema(wanted.schema, wanted.name, wanted.strict))
    raise InvalidRequestError(f"`text.format` of type `{wanted.type}` is not supported", "text")
