"""Which functions a request offers, which it wants called, and the grammar that makes the model do so."""

from typing import Any

import msgspec
from msgspec import Struct

from ....engine.messages import Grammar
from ...text.tokenizer import Tokenizer
from ..errors import ToolError
from ..schema import ChatRequest, FunctionDefinition, NamedToolChoice, Tool
from .formats import HERMES, ToolFormat, call_grammar

# What a model is told whose template knows nothing of tools; TGI's words, and a form that is also parsed.
TOOL_PROMPT = (
    "Given the functions available, please respond with a JSON for a function call with its proper arguments that "
    "best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument "
    "name and its value}.Do not use variables."
)

# As templates show JSON to the model. Any space at all would let a small model write nothing but that.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Tools(Struct, frozen=True):
    """What may be called."""

    raw: list[dict[str, Any]]  # as the request has them
    functions: list[FunctionDefinition]  # those that may be called
    must_call: bool
    parallel: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(function.name for function in self.functions)

    def grammar(self, form: ToolFormat, tokenizer: Tokenizer) -> Grammar | None:
        """What the answer has to match; None if it is free.

        A model that may choose is free until it begins a call; then a function that is ``strict`` binds it. That
        needs a form whose beginning cannot be taken for anything else: one token.
        """
        lazy = form is HERMES and tokenizer.token_id(form.opening) is not None
        if not self.must_call and not (lazy and any(function.strict for function in self.functions)):
            return None
        schemas = {function.name: _schema(function) for function in self.functions}
        text = call_grammar(form, schemas, tokenizer.token_id, parallel=self.parallel, text_first=not self.must_call)
        return Grammar("lark", text)


def tools_of(request: ChatRequest) -> Tools | None:
    """The tools of a request, None if nothing may be called. Raises ToolError."""
    if not request.tools or request.tool_choice == "none":
        return None
    functions = [_function(tool, index) for index, tool in enumerate(request.tools)]
    parallel = request.parallel_tool_calls is not False
    choice = request.tool_choice
    if choice is None or choice == "auto" or choice == "required":
        return Tools(request.tools, functions, choice == "required", parallel)
    name = choice.function.name if isinstance(choice, NamedToolChoice) else choice
    chosen = [function for function in functions if function.name == name]
    if not chosen:
        raise ToolError(f"Tool with name {name} not found")
    return Tools(request.tools, chosen[:1], must_call=True, parallel=False)


def _function(tool: dict[str, Any], index: int) -> FunctionDefinition:
    try:
        found = msgspec.convert(tool, Tool)
    except msgspec.ValidationError as error:
        raise ToolError(f"tools[{index}]: {error}") from None
    if found.type != "function":
        raise ToolError(f"tools[{index}]: type {found.type!r} is not supported, only 'function'")
    if not found.function.name:
        raise ToolError(f"tools[{index}]: the function has no name")
    return found.function


def _schema(function: FunctionDefinition) -> dict[str, object]:
    """Schema of the arguments, always an object. What the grammar engine doesn't know is ignored unless strict."""
    schema = function.parameters
    if schema is None:
        schema = function.arguments if isinstance(function.arguments, dict) else {"properties": {}}
    return {"x-guidance": {**_SPACING, "lenient": not function.strict}, "type": "object", **schema}
