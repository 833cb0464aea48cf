"""--quantize and --kv-cache-dtype take what can be done, and answer other servers' values with what to do instead."""

import pytest
import typer

from headwater.api.launch.quantize import parse_kv_cache_dtype, parse_quantize


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("int8", "int8"),
        ("fp8", "fp8"),
        ("int4", "int4"),
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
        ("bitsandbytes-nf4", "not supported. Take int4"),
        ("int3", "'int3': not known; one of int8, fp8, int4, gptq, awq, compressed-tensors"),
    ],
)
def test_what_is_not_is_answered(value: str, answer: str) -> None:
    with pytest.raises(typer.BadParameter, match=answer):
        parse_quantize(value)


def test_every_name_of_e4m3_is_taken() -> None:
    assert parse_kv_cache_dtype("auto") == "auto"
    assert {parse_kv_cache_dtype(name) for name in ("fp8_e4m3fn", "fp8_e4m3", "fp8")} == {"fp8_e4m3fn"}


@pytest.mark.parametrize(
    ("value", "answer"),
    [("fp8_e5m2", "'fp8_e5m2': not supported: fp8_e4m3fn has"), ("int8", "not known; one of auto, ")],
)
def test_another_kind_of_cache_is_answered(value: str, answer: str) -> None:
    with pytest.raises(typer.BadParameter, match=answer):
        parse_kv_cache_dtype(value)
