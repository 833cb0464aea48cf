import json
from typing import Any

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer

from headwater.api.http.errors import ValidationError
from headwater.api.text.grammar import AnyGrammar, request_grammar, schema_grammar
from headwater.engine.messages import Grammar

from ..conftest import byte_tokenizer

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA | {"additionalProperties": False}, separators=(",", ":"))

_decode = msgspec.json.Decoder(AnyGrammar)


def grammar(**given: Any) -> Grammar | None:
    found = request_grammar(_decode.decode(json.dumps(given)))
    return None if found is None else found.grammar


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": TEXT},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}},  # TGI
        {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},  # OpenAI
    ],
)
def test_all_ways_to_write_a_schema(given: dict[str, Any]) -> None:
    assert grammar(**given) == Grammar("json_schema", TEXT)


def test_other_kinds() -> None:
    assert grammar(type="regex", value="a|b") == Grammar("regex", "a|b")
    assert grammar(type="text") is None
    assert grammar(type="json_object") == Grammar("json_schema", '{"type":"object"}')
    # Without `properties`, which TGI wants.
    assert grammar(type="json", value={"type": "array"}) == Grammar("json_schema", '{"type":"array"}')


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"type": "json", "value": "{"}, "grammar is not valid: "),
        ({"type": "json", "value": "[" * 100_000}, "grammar is not valid: "),
        ({"type": "json", "value": 5}, "grammar is not supported"),
        ({"type": "json", "value": '{"items":' * 700 + "{}" + "}" * 700}, "grammar is not valid: nested too deeply"),
        ({"type": "json", "value": None}, "grammar is not supported"),
        ({"type": "json_schema"}, "grammar is not valid: `json_schema` is missing"),
    ],
)
def test_refusals(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grammar(**given)
    assert caught.value.error.startswith(f"Input validation error: {reason}")


@pytest.mark.parametrize("given", [{"type": "yaml", "value": ""}, {"type": "regex"}, {"type": "json"}, {"value": {}}])
def test_what_has_no_grammars_shape(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        grammar(**given)


@pytest.mark.parametrize(("compact", "spaced"), [(False, True), (True, False)])
def test_spaces_between_the_parts_of_an_answer(compact: bool, spaced: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    grammar = schema_grammar(schema, compact=compact).grammar
    # With the compiler's own default for spaces.
    text = LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_pattern": "[ ]?"})
    tokenizer = byte_tokenizer()
    for answer, fits in (('{"a":1}', True), ('{ "a": 1 }', spaced)):
        matcher = LLMatcher(LLTokenizer(tokenizer.to_str(), eos_token=257), text)
        ids = tokenizer.encode(answer, add_special_tokens=False).ids
        assert (matcher.try_consume_tokens(ids) == len(ids)) == fits
