"""A body of the Messages API as the request of a conversation."""

from typing import Any

import msgspec

from ..chat.conversation import thinking_variables
from ..chat.errors import InvalidRequestError
from ..chat.request import ChatRequest, FunctionName, Message, ToolChoice
from ..text.grammar import JsonSchemaGrammar, NamedSchema
from .schema import CountTokensRequest, MessagesRequest, OutputConfig, RequestBlock, RequestMessage, Tool

# What older clients send back that is no text of the model's: its content can't be read here.
_IGNORED_BLOCKS = frozenset({"redacted_thinking"})


def chat_request(request: CountTokensRequest) -> ChatRequest:
    """The same in OpenAI's terms. Raises InvalidRequestError, which names what is not supported."""
    messages: list[Message] = []
    if request.system:
        messages.append(Message("system", _text(request.system, "system")))
    if not request.messages:
        raise InvalidRequestError("`messages` cannot be empty", "messages")
    for index, message in enumerate(request.messages):
        messages += _messages(message, f"messages[{index}]")
    chat = ChatRequest(messages=messages, model=request.model)
    _set_tools(chat, request)
    if request.thinking is not None:
        chat.chat_template_kwargs = dict(thinking_variables(request.thinking.type != "disabled"))
    if request.output_config is not None:
        _set_output(chat, request.output_config)
    if isinstance(request, MessagesRequest):
        chat.max_tokens = request.max_tokens
        chat.stop = request.stop_sequences
        chat.temperature, chat.top_k, chat.top_p = request.temperature, request.top_k, request.top_p
        chat.priority, chat.cache_salt, chat.timeout = request.priority, request.cache_salt, request.timeout
    return chat


def _messages(message: RequestMessage, where: str) -> list[Message]:
    """A turn: results of calls are messages of their own, before what else the user says."""
    if isinstance(message.content, str):
        return [Message(message.role, message.content)]
    said: list[str] = []
    thought: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[Message] = []
    for position, block in enumerate(message.content):
        place = f"{where}.content[{position}]"
        match block.type:
            case "text":
                said.append(_required(block.text, "text", place))
            case "thinking":
                thought.append(_required(block.thinking, "thinking", place))
            case "tool_use":
                arguments = msgspec.json.encode(block.input or {}).decode()
                function = {"name": _required(block.name, "name", place), "arguments": arguments}
                calls.append({"id": block.id, "type": "function", "function": function})
            case "tool_result":
                of = _required(block.tool_use_id, "tool_use_id", place)
                results.append(Message("tool", _text(block.content or "", place), tool_call_id=of))
            case kind if kind not in _IGNORED_BLOCKS:
                raise InvalidRequestError(f"{place}: content of type `{kind}` is not supported", "messages")
    if not (said or thought or calls):
        return results
    turn = Message(message.role, "".join(said) if said or not calls else None)
    if thought:
        turn.reasoning_content = "\n\n".join(thought)
    if calls:
        turn.tool_calls = calls
    return [*results, turn]


def _text(content: str | list[RequestBlock], where: str) -> str:
    """Of blocks that must be text."""
    if isinstance(content, str):
        return content
    for position, block in enumerate(content):
        if block.type != "text":
            place = f"{where}[{position}]"
            raise InvalidRequestError(f"{place}: content of type `{block.type}` is not supported, only `text`")
    return "\n\n".join(_required(block.text, "text", where) for block in content)


def _required(value: str | None, name: str, where: str) -> str:
    if value is None:
        raise InvalidRequestError(f"{where}: `{name}` is missing", "messages")
    return value


def _set_tools(chat: ChatRequest, request: CountTokensRequest) -> None:
    if request.tools:
        chat.tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    choice = request.tool_choice
    if choice is None:
        return
    if choice.disable_parallel_tool_use:
        chat.parallel_tool_calls = False
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequestError("`tool_choice` of type `tool` needs a `name`", "tool_choice")
        chat.tool_choice = ToolChoice(function=FunctionName(choice.name))
    else:
        chat.tool_choice = "required" if choice.type == "any" else choice.type


def _tool(tool: Tool, where: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidRequestError(f"{where}: type `{tool.type}` is not supported: this server runs no tools", "tools")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema or {"type": "object", "properties": {}}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _set_output(chat: ChatRequest, wanted: OutputConfig) -> None:
    if wanted.effort is not None:
        chat.reasoning_effort = "xhigh" if wanted.effort == "max" else wanted.effort
    if wanted.format is not None:
        if wanted.format.type != "json_schema" or wanted.format.schema is None:
            raise InvalidRequestError("`output_config.format` must be a `json_schema` with a `schema`", "output_config")
        chat.response_format = JsonSchemaGrammar(json_schema=NamedSchema(wanted.format.schema))
