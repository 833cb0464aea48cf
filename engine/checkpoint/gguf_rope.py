"""The rotary embedding's scaling, from metadata and tensors of a GGUF to rope_scaling of a config.json."""

import math
from typing import Any

import numpy as np
from gguf.quants import dequantize

from .gguf_file import GgufFile

KINDS = ("none", "linear", "llama3", "yarn", "longrope")
# Llama 3.1 and later: the parameters of llama.cpp's rope_freqs tensor, of which it keeps the result only.
LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR, LLAMA3_ORIGINAL_POSITIONS = 1.0, 4.0, 8192
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"


def rope_scaling(gguf: GgufFile, theta: float, rotated: int) -> dict[str, Any] | None:
    """rope_scaling of config.json for ``rotated`` dims of a head. Raises ModelError for a kind that is not known."""
    if "rope_freqs.weight" in gguf.tensors:
        return _llama3(gguf, theta, rotated)
    rope = f"{gguf.architecture}.rope"
    kind = gguf.get(f"{rope}.scaling.type", "none")
    if kind not in KINDS:
        raise gguf.error(f"RoPE scaling {kind!r} is not known; known: {', '.join(KINDS)}")
    # Phi-3 has the divisors without a name for them.
    if kind == "longrope" or LONG_FACTORS in gguf.tensors or SHORT_FACTORS in gguf.tensors:
        return _longrope(gguf, rotated)
    if kind == "yarn":
        return _yarn(gguf)
    key = f"{rope}.scaling.factor" if f"{rope}.scaling.factor" in gguf else f"{rope}.scale_linear"
    factor = shortest(gguf, key, gguf.get(key, 1.0))
    if kind == "linear" or (kind == "none" and key.endswith("scale_linear") and factor != 1.0):
        return {"rope_type": "linear", "factor": factor}
    return None


def original_positions(gguf: GgufFile) -> int:
    """Tokens of the context before it was stretched."""
    positions = gguf.require(f"{gguf.architecture}.context_length", int)
    key = f"{gguf.architecture}.rope.scaling.original_context_length"
    original = gguf.get(key, positions)
    if original < 1:
        raise gguf.error(f"{key} is {original}. The file is damaged: get or convert it again")
    return original


def shortest(gguf: GgufFile, key: str, value: float) -> float:
    """An fp32 above 0 as the shortest decimal that rounds to it: 9.999999747378752e-06 was meant as 1e-05."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not np.isfinite(single) or single <= 0:
        raise gguf.error(f"{key} is {value}, expected a number above 0")
    return float(str(single))


def _yarn(gguf: GgufFile) -> dict[str, Any]:
    scaling = f"{gguf.architecture}.rope.scaling"
    for key, usual in (("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)):
        # -1: as usual, which is what a model without the key gets.
        if (given := gguf.get(f"{scaling}.{key}", usual)) not in (usual, -1.0):
            raise gguf.error(f"{scaling}.{key} is {given}: this variant of yarn is not known here")
    factor = shortest(gguf, f"{scaling}.factor", gguf.require(f"{scaling}.factor", float))
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original_positions(gguf),
    }
    for name in ("beta_fast", "beta_slow"):
        if f"{scaling}.yarn_{name}" in gguf:
            found[name] = shortest(gguf, f"{scaling}.yarn_{name}", gguf.get(f"{scaling}.yarn_{name}", 0.0))
    attention = gguf.get(f"{scaling}.attn_factor", 1.0)
    if attention != 1.0:  # llama.cpp multiplies it with what the factor gives
        usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
        found["attention_factor"] = shortest(gguf, f"{scaling}.attn_factor", attention) * usual
    return found


def _longrope(gguf: GgufFile, rotated: int) -> dict[str, Any]:
    key = f"{gguf.architecture}.rope.scaling.attn_factor"
    return {
        "rope_type": "longrope",
        "short_factor": _divisors(gguf, SHORT_FACTORS, rotated),
        "long_factor": _divisors(gguf, LONG_FACTORS, rotated),
        "attention_factor": shortest(gguf, key, gguf.get(key, 1.0)),
        "original_max_position_embeddings": original_positions(gguf),
    }


def _divisors(gguf: GgufFile, tensor: str, rotated: int) -> list[float]:
    """One for each rotary frequency, [rotated / 2]."""
    if tensor not in gguf.tensors:
        raise gguf.error(f"tensor {tensor} is missing. The file is incomplete: get or convert it again")
    if gguf.shape(tensor) != (rotated // 2,):
        raise gguf.error(
            f"tensor {tensor} has shape {list(gguf.shape(tensor))}, the metadata asks for {[rotated // 2]}"
        )
    rows, kind = gguf.rows(tensor)
    try:
        values = dequantize(rows, kind).reshape(-1)
    except NotImplementedError as error:
        raise gguf.error(f"{tensor} is stored as {kind.name}, which cannot be read") from error
    return [shortest(gguf, tensor, float(value)) for value in values]


def _llama3(gguf: GgufFile, theta: float, rotated: int) -> dict[str, Any]:
    """Find the parameters that give the stored divisors; the largest one is the factor itself."""
    stored = np.array(_divisors(gguf, "rope_freqs.weight", rotated))
    factor = float(stored.max())
    high = LLAMA3_LOW_FREQ_FACTOR if gguf.architecture == "llama4" else LLAMA3_HIGH_FREQ_FACTOR
    if not np.allclose(stored, llama3_divisors(factor, theta, rotated, high), rtol=1e-4):
        raise gguf.error("the rope_freqs tensor is none of Llama 3's: this RoPE scaling is not known here")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
        "high_freq_factor": high,
        "original_max_position_embeddings": LLAMA3_ORIGINAL_POSITIONS,
    }


def llama3_divisors(
    factor: float, theta: float, rotated: int, high_freq_factor: float = LLAMA3_HIGH_FREQ_FACTOR
) -> np.ndarray:
    """By what Llama 3.1's scaling divides each rotary frequency, [rotated / 2]; long waves by ``factor``.

    Llama 4 has its two bounds in one place, with nothing between them.
    """
    turns = LLAMA3_ORIGINAL_POSITIONS / (2 * math.pi * theta ** (np.arange(0, rotated, 2) / rotated))
    span = max(high_freq_factor - LLAMA3_LOW_FREQ_FACTOR, 1e-9)
    kept = np.clip((turns - LLAMA3_LOW_FREQ_FACTOR) / span, 0.0, 1.0)
    return 1 / ((1 - kept) / factor + kept)
