"""--quantize takes what can be done, and answers TGI's other values with what to do instead."""

import pytest
import typer

from headwater.api.launch.quantize import parse_quantize


@pytest.mark.parametrize("value", ["int8", "fp8"])
def test_what_is_supported_is_taken(value: str) -> None:
    assert parse_quantize(value) == value


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("gptq", "'gptq': not supported. Take the unquantised model; --quantize int8 or fp8"),
        ("awq", "not supported"),
        ("exl2", "not supported"),
        ("marlin", "not supported"),
        ("bitsandbytes-nf4", "not supported"),
        ("eetq", "int8 does the same"),
        ("bitsandbytes", "int8 does the same"),
        ("compressed-tensors", "recognised by its config.json: leave --quantize out"),
        ("int4", "'int4': not known; one of int8, fp8"),
    ],
)
def test_what_is_not_is_answered(value: str, answer: str) -> None:
    with pytest.raises(typer.BadParameter, match=answer):
        parse_quantize(value)
