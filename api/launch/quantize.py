"""The value of --quantize: TGI's names, and int8."""

from typing import get_args

import typer

from ...engine.config import Quantization

# Both are 8-bit weights, made on load.
_SAME = {"eetq": "int8", "bitsandbytes": "int8", "marlin": "gptq"}
_UNSUPPORTED = "not supported. Take the unquantised model, a GGUF, or one in GPTQ's or AWQ's form"
_ANSWERS = dict.fromkeys(("exl2", "bitsandbytes-nf4", "bitsandbytes-fp4"), _UNSUPPORTED)


def parse_quantize(value: str) -> Quantization:
    """Raises typer.BadParameter for what cannot be done."""
    wanted = _SAME.get(value, value)
    for known in get_args(Quantization):
        if wanted == known:
            return known
    known = ", ".join(get_args(Quantization))
    raise typer.BadParameter(f"'{value}': {_ANSWERS.get(value, f'not known; one of {known}')}")
