"""--quantize takes what can be done, and answers TGI's other values with what to do instead."""

import pytest
import typer

from headwater.api.launch.quantize import parse_quantize


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("int8", "int8"),
        ("fp8", "fp8"),
        ("eetq", "int8"),
        ("bitsandbytes", "int8"),
        ("gptq", "gptq"),
        ("marlin", "gptq"),
        ("awq", "awq"),
        ("compressed-tensors", "compressed-tensors"),
    ],
)
def test_what_is_supported_is_taken(value: str, meaning: str) -> None:
    assert parse_quantize(value) == meaning


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("exl2", "'exl2': not supported. Take the unquantised model, a GGUF, or one in GPTQ's or AWQ's form"),
        ("bitsandbytes-nf4", "not supported"),
        ("int4", "'int4': not known; one of int8, fp8, gptq, awq, compressed-tensors"),
    ],
)
def test_what_is_not_is_answered(value: str, answer: str) -> None:
    with pytest.raises(typer.BadParameter, match=answer):
        parse_quantize(value)
