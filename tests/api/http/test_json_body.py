import msgspec
import pytest

from headwater.api.http.json_body import json_error
from headwater.api.tgi.schema import CompatGenerateRequest

SHAPE = "Failed to deserialize the JSON body into the target type: "
SYNTAX = "Failed to parse the request body as JSON: "

CASES = [
    (b"{}", 422, SHAPE + "Object missing required field `inputs`"),
    (b"[]", 422, SHAPE + "Expected `object`, got `array`"),
    (b'{"inputs":1}', 422, SHAPE + "inputs: Expected `str`, got `int`"),
    (
        b'{"inputs":"a","parameters":{"max_new_tokens":"a"}}',
        422,
        SHAPE + "parameters.max_new_tokens: Expected `int | null`, got `str`",
    ),
    (
        b'{"inputs":"a","parameters":{"max_new_tokens":-1}}',
        422,
        SHAPE + "parameters.max_new_tokens: Expected `int` >= 0",
    ),
    (b'{"inputs":"a","parameters":{"top_k":5.0}}', 422, SHAPE + "parameters.top_k: Expected `int | null`, got `float`"),
    (b'{"inputs":"a","parameters":{"stop":[1]}}', 422, SHAPE + "parameters.stop[0]: Expected `str`, got `int`"),
    (b'{"inputs":"a",\n  }', 400, SYNTAX + "trailing comma in object at line 2 column 2"),
    (b"", 400, SYNTAX + "EOF while parsing at line 1 column 0"),
    (b'{"inputs":"a"', 400, SYNTAX + "EOF while parsing at line 1 column 13"),
    (b'{"inputs":NaN}', 400, SYNTAX + "invalid character at line 1 column 10"),
    (b'{"inputs":"\xff"}', 400, SYNTAX + "invalid unicode code point at line 1 column 14"),
    (b'{"inputs":"a","x":' + b"[" * 100_000, 400, SYNTAX + "recursion limit exceeded at line 1 column 100018"),
]


@pytest.mark.parametrize(("body", "status", "text"), CASES, ids=[text[-40:] for _, _, text in CASES])
def test_status_and_words(body: bytes, status: int, text: str) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as caught:
        msgspec.json.decode(body, type=CompatGenerateRequest)
    error = json_error(caught.value, body)
    assert (error.status, error.text) == (status, text)
