"""How a model writes a call: the forms of the common families, recognised by what the chat template says.

Hermes, Qwen    <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
Mistral         [TOOL_CALLS] [{"name": "f", "arguments": {...}}]
Llama 3, others {"name": "f", "parameters": {...}}
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ....engine.messages import Grammar
from ...text.grammar import LARK_HEAD, grammar_rule
from ...text.json_schema import moved


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

MAX_PARALLEL_CALLS = 16  # a small model that is free to go on calls until its tokens are used up


def tool_format(template: str) -> ToolFormat:
    """The form that a template asks for."""
    for known in (HERMES, MISTRAL):
        if known.opening in template:
            return known
    return JSON


def call_grammar(
    form: ToolFormat,
    schemas: dict[str, dict[str, Any]],
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
    if text_first:
        start = f"text (call text){{0,{MAX_PARALLEL_CALLS if parallel else 1}}}\ntext: <[^{token_id(form.opening)}]>*"
    else:
        start = "calls"
    return f"{LARK_HEAD}start: {start}\n{_call_rules(form, schemas, token_id, parallel)}"


def text_or_call_grammar(
    form: ToolFormat,
    schemas: dict[str, dict[str, Any]],
    token_id: Callable[[str], int | None],
    text: Grammar,
    *,
    parallel: bool,
) -> str:
    """Grammar of an answer that either matches ``text`` or calls functions. The rest is as in ``call_grammar``."""
    if text.kind != "json_schema" or form.opening:
        rules = _call_rules(form, schemas, token_id, parallel)
        return f"{LARK_HEAD}start: answer | calls\n{grammar_rule(text, 'answer')}{rules}"
    schema = msgspec.json.decode(text.text)
    # A call is an object, as the answer may be: one schema for both, or the grammar's lexer could not tell them apart.
    parts = {"text": schema} | {
        f"call_{index}": {
            "type": "object",
            "properties": {"name": {"const": name}, form.arguments: arguments},
            "required": ["name", form.arguments],
            "additionalProperties": False,
        }
        for index, (name, arguments) in enumerate(schemas.items())
    }
    document = {
        "x-guidance": {"whitespace_pattern": "[ ]?"},
        "anyOf": [{"$ref": f"#/$defs/{part}"} for part in parts],
        "$defs": {
            part: moved(one, f"#/$defs/{part}/properties/{form.arguments}" if part != "text" else "#/$defs/text")
            for part, one in parts.items()
        },
    }
    return f"{LARK_HEAD}start: %json {_json(document)}\n"


def _call_rules(
    form: ToolFormat, schemas: dict[str, dict[str, Any]], token_id: Callable[[str], int | None], parallel: bool
) -> str:
    """The rules ``calls``, of an answer that is nothing else, and ``call``."""
    bodies = []
    rules = []
    for index, (name, schema) in enumerate(schemas.items()):
        head = f'{{"name": {_json(name)}, "{form.arguments}": '
        bodies.append(f"call_{index}")
        rules.append(f'call_{index}: {_json(head)} arguments_{index} "}}"\narguments_{index}: %json {_json(schema)}\n')
    body = " | ".join(bodies)
    opening, closing = (_marker(text, token_id) for text in (form.opening, form.closing))
    separator = _json(", " if form.is_list else "\n")
    calls = f"call ({separator} call){{0,{MAX_PARALLEL_CALLS - 1}}}" if parallel else "call"
    if form.is_list:
        calls = f'{opening} " "? "[" {calls} "]"'
    elif form.opening:
        body = f'{opening} "\\n" ({body}) "\\n" {closing}'
    return f"calls: {calls}\ncall: {body}\n{''.join(rules)}"


def _marker(text: str, token_id: Callable[[str], int | None]) -> str:
    found = token_id(text)
    return _json(text) if found is None else f"<[{found}]>"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
