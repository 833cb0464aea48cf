"""Which functions a request offers, which it wants called, and the grammar that makes the model do so."""

from typing import Any

import msgspec
from msgspec import Struct

from ....engine.messages import Grammar
from ...text.grammar import RequestGrammar
from ...text.json_schema import PreparedSchema, prepare_schema
from ...text.tokenizer import Tokenizer
from ..errors import ToolError
from ..request import ChatRequest, FunctionDefinition, Tool, ToolChoice
from .formats import ToolFormat
from .grammar import call_grammar, text_or_call_grammar
from .json_calls import HERMES
from .named_calls import MISTRAL_ARGS
from .tagged_calls import GLM, QWEN_CODER

# What a model is told whose template knows nothing of tools; TGI's words, and a form that is also parsed.
TOOL_PROMPT = (
    "Given the functions available, please respond with a JSON for a function call with its proper arguments that "
    "best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument "
    "name and its value}.Do not use variables."
)

# As templates show JSON to the model. Any space at all would let a small model write nothing but that.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


_ONE_OPENING_EACH = (HERMES, QWEN_CODER, GLM, MISTRAL_ARGS)


class Tools(Struct, frozen=True):
    """What may be called."""

    raw: list[dict[str, Any]]  # as the request has them
    functions: list[FunctionDefinition]  # those that may be called
    must_call: bool
    parallel: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(function.name for function in self.functions)

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """Of the arguments, by function, as the client wrote them."""
        return {function.name: function.parameters or {} for function in self.functions}

    def grammar(self, form: ToolFormat, tokenizer: Tokenizer, text: RequestGrammar | None) -> RequestGrammar | None:
        """What the answer has to match; None if it is free.

        A model that may choose is free until it begins a call; then a function that is ``strict`` binds it. That
        needs a form whose beginning cannot be taken for anything else: one token. If its text is bound, all is.

        Args:
            text: what an answer without calls has to match.

        Raises ValidationError.
        """
        lazy = form in _ONE_OPENING_EACH and tokenizer.token_id(form.opening) is not None
        if not self.must_call and text is None and not (lazy and any(function.strict for function in self.functions)):
            return None
        schemas, loosened = {}, set()
        for function in self.functions:
            schemas[function.name], left_out = _schema(function)
            loosened |= set(left_out)
        if self.must_call or text is None:
            how = {"parallel": self.parallel, "text_first": not self.must_call}
            lark = call_grammar(form, schemas, tokenizer.token_id, **how)
        else:
            lark = text_or_call_grammar(form, schemas, tokenizer.token_id, text.grammar, parallel=self.parallel)
            loosened |= set(text.loosened)
        return RequestGrammar(Grammar("lark", lark), tuple(sorted(loosened)))


def tools_of(request: ChatRequest) -> Tools | None:
    """The tools of a request, None if nothing may be called. Raises ToolError, ValidationError."""
    if request.functions is not None or request.function_call is not None:
        raise ToolError("`functions` and `function_call` are not supported: send `tools` and `tool_choice`")
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise ToolError("`tool_choice` is only allowed when `tools` are specified")
        return None
    functions = [_function(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    parallel = request.parallel_tool_calls is not False
    if choice == "none":
        return None
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        functions = [_named(functions, _allowed_name(tool)) for tool in allowed.tools]
        return Tools(request.tools, functions, allowed.mode == "required", parallel)
    if choice is None or choice == "auto" or choice == "required":
        return Tools(request.tools, functions, choice == "required", parallel)
    if isinstance(choice, ToolChoice):
        if choice.type != "function" or choice.function is None:
            raise ToolError(f"`tool_choice` of type {choice.type!r} is not supported, or names nothing")
        choice = choice.function.name
    return Tools(request.tools, [_named(functions, choice)], must_call=True, parallel=False)


def _named(functions: list[FunctionDefinition], name: str) -> FunctionDefinition:
    for function in functions:
        if function.name == name:
            return function
    raise ToolError(f"Tool with name {name} not found")


def _allowed_name(tool: dict[str, Any]) -> str:
    """Chat completions write a function's name one level below, responses beside the type."""
    return str(tool.get("name") or _function(tool, "allowed_tools").name)


def _function(tool: dict[str, Any], where: str) -> FunctionDefinition:
    kind = tool.get("type", "function")
    if kind != "function":
        raise ToolError(f"{where}: type {kind!r} is not supported, only 'function'")
    try:
        found = msgspec.convert(tool, Tool)
    except msgspec.ValidationError as error:
        raise ToolError(f"{where}: {error}") from None
    if not found.function.name:
        raise ToolError(f"{where}: the function has no name")
    return found.function


def _schema(function: FunctionDefinition) -> PreparedSchema:
    """Of the arguments, always an object; without any said there are none. Raises ValidationError."""
    given = function.parameters
    if given is None and isinstance(function.arguments, dict):
        given = function.arguments
    prepared = prepare_schema({"type": "object", **(given or {"properties": {}})}, strict=bool(function.strict))
    return prepared._replace(schema={"x-guidance": _SPACING, **prepared.schema})
