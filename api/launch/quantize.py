"""Values of --quantize and --kv-cache-dtype: TGI's names, and others' for the same."""

from typing import get_args

import typer

from ...engine.config import KvCacheDtype, Quantization

# Both are 8-bit weights, made on load.
_SAME = {"eetq": "int8", "bitsandbytes": "int8", "marlin": "gptq"}
_UNSUPPORTED = "not supported. Take the unquantised model, a GGUF, or one in GPTQ's or AWQ's form"
_FOUR_BITS = "not supported. Take int4, another rounding to 4 bits"
_ANSWERS = {"exl2": _UNSUPPORTED, "bitsandbytes-nf4": _FOUR_BITS, "bitsandbytes-fp4": _FOUR_BITS}


def parse_quantize(value: str) -> Quantization:
    """Raises typer.BadParameter for what cannot be done."""
    wanted = _SAME.get(value, value)
    for known in get_args(Quantization):
        if wanted == known:
            return known
    known = ", ".join(get_args(Quantization))
    raise typer.BadParameter(f"'{value}': {_ANSWERS.get(value, f'not known; one of {known}')}")


def parse_kv_cache_dtype(value: str) -> KvCacheDtype:
    """Raises typer.BadParameter for what cannot be done."""
    if value == "auto":
        return "auto"
    if value in ("fp8_e4m3fn", "fp8_e4m3", "fp8"):  # the last two are vLLM's
        return "fp8_e4m3fn"
    answer = "not supported: fp8_e4m3fn has one bit of mantissa more" if value == "fp8_e5m2" else "not known"
    raise typer.BadParameter(f"'{value}': {answer}; one of {', '.join(get_args(KvCacheDtype))}")
