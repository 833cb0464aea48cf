"""The value of --quantize, and what to tell those who bring one of TGI's."""

from typing import get_args

import typer

from ...engine.checkpoint.quantized import QuantizeName

# TGI names the format of a checkpoint, too; here config.json says it.
_FROM_CHECKPOINT = "a checkpoint that is quantised so is recognised by its config.json: leave --quantize out"
_UNSUPPORTED = "not supported. Take the unquantised model; --quantize int8 or fp8 rounds its weights to 8 bits on load"
_ANSWERS = {
    "compressed-tensors": _FROM_CHECKPOINT,
    "eetq": "not supported. int8 does the same: 8-bit weights, made on load",
    "bitsandbytes": "not supported. int8 does the same: 8-bit weights, made on load",
    **dict.fromkeys(("awq", "exl2", "gptq", "marlin", "bitsandbytes-nf4", "bitsandbytes-fp4"), _UNSUPPORTED),
}


def parse_quantize(value: str) -> QuantizeName:
    """Raises typer.BadParameter for what cannot be done."""
    for known in get_args(QuantizeName):
        if value == known:
            return known
    known = ", ".join(get_args(QuantizeName))
    raise typer.BadParameter(f"'{value}': {_ANSWERS.get(value, f'not known; one of {known}')}")
