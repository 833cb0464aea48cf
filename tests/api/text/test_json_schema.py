"""What is made of clients' schemas, judged by what the compiled grammar lets through."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from headwater.api.http.errors import ValidationError
from headwater.api.text.json_schema import prepare_schema

from ..conftest import byte_tokenizer

GUIDE = LLTokenizer(byte_tokenizer().to_str(), eos_token=257)


def takes(schema: dict[str, Any], text: str, strict: bool = False) -> bool:
    """Whether the prepared schema allows the text as a whole answer."""
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(prepare_schema(schema, strict=strict).schema))
    refused, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    assert not refused, messages
    matcher = LLMatcher(GUIDE, grammar)
    tokens = byte_tokenizer().encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


DAY = {"properties": {"day": {"type": "string"}, "dogs": {"type": "integer"}}, "required": ["day", "dogs"]}
NUMBER, OBJECT, TEXT, ARRAY = "1", '{"day":"Monday","dogs":3}', '"abc"', '["abc"]'


@pytest.mark.parametrize(
    ("keywords", "fits"),
    [
        (DAY, OBJECT),
        ({"required": ["day"]}, OBJECT),
        ({"additionalProperties": {}}, OBJECT),
        ({"patternProperties": {"^d": {}}}, OBJECT),
        ({"minProperties": 1}, OBJECT),
        ({"items": {"type": "string"}}, ARRAY),
        ({"prefixItems": [{"type": "string"}]}, ARRAY),
        ({"minItems": 1}, ARRAY),
        ({"minLength": 1}, TEXT),
        ({"pattern": "^a"}, TEXT),
        ({"format": "password"}, TEXT),
        ({"minimum": 1}, NUMBER),
        ({"multipleOf": 1}, NUMBER),
        ({"format": "int32"}, NUMBER),
    ],
)
@pytest.mark.parametrize(
    ("within", "around"),
    [
        (lambda schema: schema, "{}"),
        (lambda schema: {"type": "object", "properties": {"a": schema}, "required": ["a"]}, '{{"a":{}}}'),
        (lambda schema: {"type": "array", "items": schema}, "[{}]"),
        (lambda schema: {"$ref": "#/$defs/a", "$defs": {"a": schema}}, "{}"),
        (lambda schema: {"anyOf": [schema, {"const": "other"}]}, "{}"),
        (lambda schema: {"oneOf": [{"type": "null"}, schema]}, "{}"),
    ],
)
def test_keywords_imply_the_type(keywords: dict[str, Any], fits: str, within: Any, around: str) -> None:
    for value in (NUMBER, OBJECT, TEXT, ARRAY):
        assert takes(within(keywords), around.format(value)) == (value == fits)


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": 1, "minLength": 1},
        {"enum": [1, "abc"], "minLength": 1},
        {"type": ["number", "string"], "minimum": 1},
    ],
)
def test_a_type_that_is_said_or_left_open_stays_so(schema: dict[str, Any]) -> None:
    assert takes(schema, NUMBER)
    assert takes(schema, TEXT)


POINT = {"properties": {"x": {"type": "number"}}}


@pytest.mark.parametrize(
    ("schema", "closed", "open_"),
    [
        (POINT, '{"x":1}', '{"x":1,"y":2}'),
        ({"type": "object", "properties": {}}, "{}", '{"x":1}'),
        ({"items": POINT}, '[{"x":1}]', '[{"y":1}]'),
        ({"properties": {"not": POINT, "if": POINT}}, '{"not":{"x":1}}', '{"not":{"y":1}}'),
        ({"$ref": "#/$defs/p", "$defs": {"p": POINT}}, '{"x":1}', '{"y":1}'),
        ({"anyOf": [POINT, {"type": "null"}]}, '{"x":1}', '{"y":1}'),
        ({"allOf": [POINT, {"properties": {"y": {"type": "null"}}}]}, '{"x":1,"y":null}', '{"x":1,"z":1}'),
        ({"allOf": [{"$ref": "#/$defs/p"}], "required": ["x"], "$defs": {"p": POINT}}, '{"x":1}', '{"x":1,"z":1}'),
        ({"allOf": [{"allOf": [POINT]}, POINT], "properties": {"y": {}}}, '{"x":1,"y":1}', '{"z":1}'),
        (POINT | {"unevaluatedProperties": False}, '{"x":1}', '{"y":1}'),
    ],
)
def test_an_object_has_the_properties_that_it_lists_and_no_others(
    schema: dict[str, Any], closed: str, open_: str
) -> None:
    for strict in (False, True):
        assert takes(schema, closed, strict)
        assert not takes(schema, open_, strict)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        POINT | {"additionalProperties": True},
        {"allOf": [POINT, {"additionalProperties": True}]},
        {"allOf": [POINT, {"anyOf": [{"required": ["z"]}, {"required": ["y"]}]}]},
        POINT | {"if": {"required": ["x"]}, "then": {"properties": {"z": {}}}},
    ],
)
def test_what_may_have_others_stays_open(schema: dict[str, Any]) -> None:
    assert takes(schema, '{"x":1,"z":1}')


def test_allof_of_objects_holds_what_each_part_says() -> None:
    schema = {
        "allOf": [{"properties": {"x": {"minimum": 0}}, "required": ["x"]}, {"properties": {"x": {"maximum": 5}}}]
    }
    assert takes(schema, '{"x":5}')
    assert not any(takes(schema, text) for text in ("{}", '{"x":6}', '{"x":-1}'))


@pytest.mark.parametrize(
    ("format_", "endless", "fine"),
    [
        ("date-time", "2024-01-01T10:00:00.{}Z", "123456789"),
        ("time", "10:00:00.{}Z", "123456789"),
        ("email", "a@b.{}", "b." * 100 + "com"),
        ("hostname", "a.{}", "b." * 100 + "com"),
        ("uri", "http://a/{}", "b" * 1000),
    ],
)
def test_strings_of_a_format_have_an_end(format_: str, endless: str, fine: str) -> None:
    schema = {"type": "string", "format": format_}
    assert takes(schema, json.dumps(endless.format(fine)))
    assert not takes(schema, json.dumps(endless.format(("1." * 2000) + "1" if "a" in endless else "1" * 2000)))
    assert prepare_schema(schema | {"maxLength": 3}).schema["maxLength"] == 3


@pytest.mark.parametrize(
    "name", ["password", "binary", "path", "base64", "regex", "ipv4network", "json-pointer", "iri"]
)
def test_a_format_that_is_not_known_is_an_annotation(name: str) -> None:
    for strict in (False, True):
        assert takes({"properties": {"a": {"type": "string", "format": name}}}, '{"a":"x y"}', strict)
        assert prepare_schema({"format": name}, strict=strict).loosened == ()


@pytest.mark.parametrize(
    ("schema", "text", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "[1,1]", "uniqueItems"),
        ({"type": "string", "not": {"const": "x"}}, '"x"', "not"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, '{"b":1}', "propertyNames"),
        ({"type": "array", "contains": {"type": "null"}}, "[1]", "contains"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "3", "oneOf"),
        ({"properties": {"a": {}}, "dependentRequired": {"a": ["b"]}}, '{"a":1}', "dependentRequired"),
        ({"properties": {"a": {}}, "minProperties": 1}, "{}", "minProperties"),
        ({"pattern": "(?=.*[0-9])a"}, '"a"', "pattern"),
        ({"pattern": r"(a)\1"}, '"a"', "pattern"),
    ],
)
def test_what_cannot_be_held_is_named_and_refused_only_where_the_schema_is_strict(
    schema: dict[str, Any], text: str, keyword: str
) -> None:
    nested = {"items": schema}
    assert takes(nested, f"[{text}]")
    assert prepare_schema(nested).loosened == (keyword,)
    with pytest.raises(ValidationError, match=f"`{keyword}` at #/items cannot be held with `strict`"):
        prepare_schema(nested, strict=True)


def test_one_of_with_a_discriminator_is_held() -> None:
    cat, dog = ({"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("cat", "dog"))
    schema = {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "$defs": {"cat": cat, "dog": dog}}
    assert prepare_schema(schema, strict=True).loosened == ()
    assert takes(schema, '{"kind":"dog"}', strict=True)
    assert not takes(schema, '{"kind":"cow"}', strict=True)


def test_references_in_circles_are_left_to_the_compiler() -> None:
    tree = {"properties": {"next": {"$ref": "#"}}}
    assert takes(tree, '{"next":{"next":{}}}')
    assert not takes(tree, '{"next":{"other":{}}}')
    prepare_schema({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}})
