"""What a text has to match, as clients write it, and as the engine takes it.

TGI's form is ``{"type", "value"}``; OpenAI's ``response_format`` has ``json_schema`` in place of ``value``, and kinds
without either. Both are taken everywhere, so that no client has to know which server it speaks to.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ...engine.messages import Grammar
from ..http.errors import ValidationError
from .json_schema import prepare_schema

LARK_HEAD = "%llguidance {}\n"
_ONE_SPACE = {"whitespace_pattern": "[ ]?"}  # between parts, at most: small models write line feeds without end
_ANY_OBJECT = '{"type":"object"}'


class NamedSchema(Struct):
    """A JSON schema with what OpenAI's clients write beside it."""

    schema: Any
    name: str | None = None
    strict: bool | None = None  # refuse what can't be held


class JsonGrammar(Struct, tag_field="type", tag="json"):
    """Text that a JSON schema describes; ``value`` is the schema, or its text."""

    value: Any


class JsonObjectGrammar(Struct, tag_field="type", tag="json_object"):
    """The same; without a schema any JSON object. ``schema`` is llama.cpp's and Together's place for one."""

    value: Any = None
    schema: Any = None


class JsonSchemaGrammar(Struct, tag_field="type", tag="json_schema"):
    """The same, the schema in TGI's place or in OpenAI's."""

    value: NamedSchema | None = None
    json_schema: NamedSchema | None = None


class RegexGrammar(Struct, tag_field="type", tag="regex"):
    """Text that a regular expression matches as a whole."""

    value: str


class TextGrammar(Struct, tag_field="type", tag="text"):
    """Any text (OpenAI's way to say that there is no grammar)."""


AnyGrammar = JsonGrammar | JsonObjectGrammar | JsonSchemaGrammar | RegexGrammar | TextGrammar


class RequestGrammar(NamedTuple):
    """A grammar for the engine, and the keywords of the client's schema that it does not hold."""

    grammar: Grammar
    loosened: tuple[str, ...] = ()


def request_grammar(given: AnyGrammar | None) -> RequestGrammar | None:
    """None: any text. Raises ValidationError; what the engine's compiler refuses comes back from there.

    Unlike TGI's, a schema needs no ``properties``: arrays, numbers and references are schemas, too.
    """
    match given:
        case None | TextGrammar():
            return None
        case RegexGrammar(value):
            return RequestGrammar(Grammar("regex", value))
        case JsonObjectGrammar(None, None):
            return RequestGrammar(Grammar("json_schema", _ANY_OBJECT))
        case JsonGrammar(value):
            return schema_grammar(value)
        case JsonObjectGrammar(value, schema):
            return schema_grammar(schema if value is None else value)
        case JsonSchemaGrammar(value, json_schema):
            named = value or json_schema
            if named is None:
                raise ValidationError("grammar is not valid: `json_schema` is missing")
            return schema_grammar(named.schema, strict=bool(named.strict))


def schema_grammar(schema: Any, *, strict: bool = False, compact: bool = False) -> RequestGrammar:
    """Of a JSON schema, or of its text; ``compact``: no spaces between its parts. Raises ValidationError."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise ValidationError(f"grammar is not valid: {error}") from None
    if not isinstance(schema, dict):
        raise ValidationError("grammar is not supported")
    try:
        prepared = prepare_schema(schema, strict=strict)
        spacing = {"x-guidance": {"whitespace_pattern": ""}} if compact else {}
        text = msgspec.json.encode(spacing | prepared.schema).decode()
        return RequestGrammar(Grammar("json_schema", text), prepared.loosened)
    except RecursionError:
        raise ValidationError("grammar is not valid: nested too deeply") from None


def grammar_rule(grammar: Grammar, name: str) -> str:
    """The same as a rule of a Lark grammar, in llguidance's dialect, with those that it needs."""
    match grammar.kind:
        case "json_schema":
            spaced = {"x-guidance": _ONE_SPACE} | msgspec.json.decode(grammar.text, type=dict[str, Any])
            return f"{name}: %json {msgspec.json.encode(spaced).decode()}\n"
        case "regex":  # it ends at a slash
            return f"{name}: /{grammar.text.replace('/', chr(92) + '/')}/\n"
    return grammar.text.removeprefix(LARK_HEAD).replace("start:", f"{name}:", 1).rstrip() + "\n"


def choice_grammar(choices: list[str]) -> RequestGrammar:
    """Exactly one of some texts. Raises ValidationError."""
    if not choices or not all(choices):
        raise ValidationError("grammar is not valid: a choice needs texts, none of them empty")
    return RequestGrammar(Grammar("lark", f"start: {' | '.join(msgspec.json.encode(one).decode() for one in choices)}"))
