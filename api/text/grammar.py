"""What a text has to match, as clients write it, and as the engine takes it.

TGI's form is ``{"type", "value"}``; OpenAI's ``response_format`` has ``json_schema`` in place of ``value``, and kinds
without either. Both are taken everywhere, so that no client has to know which server it speaks to.
"""

from typing import Any

import msgspec
from msgspec import Struct

from ...engine.messages import Grammar
from ..http.errors import ValidationError

# With one of these what a schema allows depends on others, so nothing is added to it.
_COMBINING = frozenset({"allOf", "if", "not", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"})
_OTHERS = frozenset({"additionalProperties", "patternProperties", "propertyNames"})  # what they may be is said
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_SCHEMAS = frozenset({"items", "prefixItems", "additionalProperties", "anyOf", "oneOf"})
_ANY_OBJECT = '{"type":"object"}'


class NamedSchema(Struct):
    """A JSON schema with what OpenAI's clients write beside it, which changes nothing here."""

    schema: Any
    name: str | None = None


class JsonGrammar(Struct, tag_field="type", tag="json"):
    """Text that a JSON schema describes; ``value`` is the schema, or its text."""

    value: Any


class JsonObjectGrammar(Struct, tag_field="type", tag="json_object"):
    """The same; without a schema any JSON object."""

    value: Any = None


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


def engine_grammar(given: AnyGrammar | None) -> Grammar | None:
    """None: any text. Raises ValidationError; what the engine's compiler refuses comes back from there.

    Unlike TGI's, a schema needs no ``properties``: arrays, numbers and references are schemas, too.
    """
    match given:
        case None | TextGrammar():
            return None
        case RegexGrammar(value):
            return Grammar("regex", value)
        case JsonObjectGrammar(None):
            return Grammar("json_schema", _ANY_OBJECT)
        case JsonGrammar(value) | JsonObjectGrammar(value):
            return schema_grammar(value)
        case JsonSchemaGrammar(value, json_schema):
            named = value or json_schema
            if named is None:
                raise ValidationError("grammar is not valid: `json_schema` is missing")
            return schema_grammar(named.schema)


def schema_grammar(schema: Any) -> Grammar:
    """Of a JSON schema, or of its text. Raises ValidationError."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise ValidationError(f"grammar is not valid: {error}") from None
    if not isinstance(schema, dict):
        raise ValidationError("grammar is not supported")
    try:
        closed = schema if _occurs(schema, _COMBINING) else _closed(schema)
        return Grammar("json_schema", msgspec.json.encode(closed).decode())
    except RecursionError:
        raise ValidationError("grammar is not valid: nested too deeply") from None


def _occurs(schema: Any, names: frozenset[str]) -> bool:
    if isinstance(schema, dict):
        return not names.isdisjoint(schema) or any(_occurs(value, names) for value in schema.values())
    return isinstance(schema, list) and any(_occurs(value, names) for value in schema)


def _closed(schema: Any) -> Any:
    """The schema with ``additionalProperties: false`` wherever properties are listed and nothing is said of others.

    TGI generates the properties that are listed and no others, and its clients count on that; by the standard there may
    be any, and a small model goes on to invent them.
    """
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        name: {key: _closed(one) for key, one in value.items()}
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict)
        else _closed(value)
        if name in _SCHEMAS
        else value
        for name, value in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and _OTHERS.isdisjoint(schema):
        closed["additionalProperties"] = False
    return closed
