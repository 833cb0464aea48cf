"""Scales of an fp8 KV cache that a checkpoint brings: pages hold K / k_scale and V / v_scale, a pair for each layer.

They are read where such a cache was asked for; elsewhere they are of no use.
"""

import math
from typing import NamedTuple, Protocol

import torch

from .errors import ModelError
from .quantized import QuantizationArgs

# Below a layer's ``self_attn``; the first that is there counts. compressed-tensors, vLLM, ModelOpt, AutoFP8.
_K_NAMES = ("k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale")
_V_NAMES = ("v_scale", "attn.v_scale", "v_proj.v_scale", "v_proj.output_scale")
_SHARED_NAMES = ("kv_scale", "attn.kv_scale")  # one for both


class KvScales(NamedTuple):
    """Of one layer."""

    k: float = 1.0
    v: float = 1.0


class Tensors(Protocol):
    """A checkpoint that is read by name."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def get(self, name: str, expected_shape: tuple[int, ...]) -> torch.Tensor: ...


def read_kv_scales(checkpoint: Tensors, attention: str, scheme: QuantizationArgs | None) -> KvScales:
    """The scales of a layer; 1 where the checkpoint has none.

    Args:
        attention: name of the layer's attention module.
        scheme: compressed-tensors' description of the cache that the scales are for.

    Raises ModelError if they are for another kind of cache, or damaged.
    """
    if scheme is not None:
        _check(scheme)
    k_name, v_name, shared = (
        next((name for part in names if (name := f"{attention}.{part}") in checkpoint), None)
        for names in (_K_NAMES, _V_NAMES, _SHARED_NAMES)
    )
    if k_name is None and v_name is None:
        k_name = v_name = shared
    if k_name is None and v_name is None:
        return KvScales()
    if k_name is None or v_name is None:
        missing = "K" if k_name is None else "V"
        raise ModelError(f"tensor {k_name or v_name} is there, but no scale of {missing} beside it")
    return KvScales(_scale(checkpoint, k_name), _scale(checkpoint, v_name))


def _check(scheme: QuantizationArgs) -> None:
    known = scheme.num_bits == 8 and scheme.type == "float" and scheme.symmetric
    if not known or scheme.strategy not in (None, "tensor"):
        symmetry = "" if scheme.symmetric else "asymmetric "
        kind = f"{scheme.num_bits}-bit {symmetry}{scheme.type}, strategy '{scheme.strategy}'"
        raise ModelError(
            f"the checkpoint's scales are for a KV cache in {kind}, not for fp8 with one scale for a layer's K and one "
            "for its V: leave --kv-cache-dtype out"
        )


def _scale(checkpoint: Tensors, name: str) -> float:
    shape = checkpoint.shape(name)
    if math.prod(shape) != 1:
        raise ModelError(
            f"tensor {name} has {math.prod(shape)} scales, such as one for each head: one for the layer is supported. "
            "Leave --kv-cache-dtype out"
        )
    scale = float(checkpoint.get(name, shape).item())
    if not (math.isfinite(scale) and scale > 0):
        raise ModelError(f"tensor {name} is {scale}: a scale is positive. The file is damaged, or was never calibrated")
    return scale
