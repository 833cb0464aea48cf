"""How a model writes a call: the forms of the common families, recognised by what the chat template says.

Hermes, Qwen    <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
Mistral         [TOOL_CALLS] [{"name": "f", "arguments": {...}}]
Llama 3, others {"name": "f", "parameters": {...}}
"""

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import Struct


class ToolFormat(Struct, frozen=True):
    """One way to write calls."""

    name: Literal["hermes", "mistral", "json"]
    arguments: str  # key of the arguments
    opening: str = ""  # in front of a call; what shows that text is over and a call begins
    closing: str = ""
    is_list: bool = False  # one opening, then a JSON list of calls


HERMES = ToolFormat("hermes", "arguments", "<tool_call>", "</tool_call>")
MISTRAL = ToolFormat("mistral", "arguments", "[TOOL_CALLS]", is_list=True)
JSON = ToolFormat("json", "parameters")

# Tokens of templates that say nothing about calls in their text: a special one ends the text as an opening does.
OPENINGS = (HERMES.opening, MISTRAL.opening, "<|python_tag|>")

_NEWLINE = "\n"
MAX_PARALLEL_CALLS = 16  # a small model that is free to go on calls until its tokens are used up


def tool_format(template: str) -> ToolFormat:
    """The form that a template asks for."""
    for known in (HERMES, MISTRAL):
        if known.opening in template:
            return known
    return JSON


def call_grammar(
    form: ToolFormat,
    schemas: dict[str, dict[str, object]],
    token_id: Callable[[str], int | None],
    *,
    parallel: bool,
    text_first: bool = False,
) -> str:
    """Grammar, in llguidance's dialect of Lark, of an answer that calls one function after the other.

    Args:
        schemas: of the arguments, by function name. Each stays a document of its own, so that ``$ref`` works in it.
        token_id: of a text that is one token, None if it is not.
        parallel: more than one call is allowed.
        text_first: any text may stand before, between and after calls; the form's opening must be one token.
    """
    bodies = []
    rules = []
    for index, (name, schema) in enumerate(schemas.items()):
        head = f'{{"name": {_json(name)}, "{form.arguments}": '
        bodies.append(f"call_{index}")
        rules.append(f'call_{index}: {_json(head)} arguments_{index} "}}"\narguments_{index}: %json {_json(schema)}\n')
    body = " | ".join(bodies)
    opening, closing = (_marker(text, token_id) for text in (form.opening, form.closing))

    def calls(separator: str) -> str:
        return f"call ({_json(separator)} call){{0,{MAX_PARALLEL_CALLS - 1}}}" if parallel else "call"

    if form.is_list:
        start = f'{opening} " "? "[" {calls(", ")} "]"\ncall: {body}\n'
    elif text_first:
        start = f"text (call text){{0,{MAX_PARALLEL_CALLS if parallel else 1}}}\n"
        start += f'text: <[^{token_id(form.opening)}]>*\ncall: {opening} "\\n" ({body}) "\\n" {closing}\n'
    elif form.opening:
        start = f'{calls(_NEWLINE)}\ncall: {opening} "\\n" ({body}) "\\n" {closing}\n'
    else:
        start = f"{calls(_NEWLINE)}\ncall: {body}\n"
    return f"%llguidance {{}}\nstart: {start}{''.join(rules)}"


def _marker(text: str, token_id: Callable[[str], int | None]) -> str:
    found = token_id(text)
    return _json(text) if found is None else f"<[{found}]>"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
