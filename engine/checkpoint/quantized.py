"""Checkpoints that hold weights in 8 bits: what config.json says of their scales.

Only the weights are used in 8 bits here. Where a checkpoint wants activations rounded as well (W8A8), they are left in
the model's dtype, which is at least as exact; its activation scales are not read. Those of a KV cache: kv_scales.py.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from .errors import ModelError

QuantizeName = Literal["int8", "fp8", "int4"]  # to what weights can be rounded on load

SUPPORTED = "compressed-tensors with 8-bit weights (float-quantized, int-quantized, naive-quantized) and fp8"


class StoredScales(Struct, frozen=True, kw_only=True):
    """Weight [out, in] ~ stored value * scale; a scale serves ``rows`` x ``cols`` values, 0: all there are."""

    method: str  # as config.json names it
    name: str  # of a scale tensor, beside ``weight``
    rows: int
    cols: int

    def shape(self, outputs: int, inputs: int) -> tuple[int, int]:
        """Of the scales of a weight [outputs, inputs]."""
        return -(-outputs // (self.rows or outputs)), -(-inputs // (self.cols or inputs))


class QuantizationArgs(Struct, frozen=True):
    """compressed-tensors': how the weights of one group of layers are quantised."""

    num_bits: int = 8
    type: str = "int"
    strategy: str | None = None
    symmetric: bool = True
    group_size: int | None = None
    block_structure: list[int] | str | None = None
    actorder: str | bool | None = None


class _Group(Struct):
    weights: QuantizationArgs | None = None


class _KvCache(Struct):
    kv_cache_scheme: QuantizationArgs | None = None


class _CompressedTensors(_KvCache):
    format: str = "dense"
    config_groups: dict[str, _Group] = {}


class _Sparsity(Struct):
    format: str = "dense"


class _Place(Struct):
    location: str


class _Transform(Struct):
    apply: list[_Place] = []


class _Transforms(Struct):
    config_groups: dict[str, _Transform] = {}


class _Extras(Struct):
    """compressed-tensors: what may be done to weights and activations besides quantising them."""

    sparsity_config: _Sparsity | None = None
    transform_config: _Transforms | None = None


class _Fp8(Struct):
    weight_block_size: list[int] | None = None


def read_kv_scheme(quantization: dict[str, Any]) -> QuantizationArgs | None:
    """For what KV cache compressed-tensors' scales are; None if it says nothing of one. Raises ModelError."""
    try:
        return msgspec.convert(quantization, _KvCache).kv_cache_scheme
    except msgspec.ValidationError as error:
        raise ModelError(f"quantization_config: {error}") from error


def read_scales(quantization: dict[str, Any]) -> StoredScales | None:
    """What quantization_config of config.json means for the weights; None: they are floats, it is for the KV cache.

    Raises ModelError if it can't be done.
    """
    method = quantization.get("quant_method", "unknown")
    try:
        if method == "compressed-tensors":
            check_as_stored(quantization)
            return _compressed_tensors(msgspec.convert(quantization, _CompressedTensors))
        if method == "fp8":
            return _fp8(msgspec.convert(quantization, _Fp8))
    except msgspec.ValidationError as error:
        raise ModelError(f"quantization_config: {error}") from error
    raise ModelError(
        f"weights quantised by '{method}' are not supported (known: {SUPPORTED}). "
        "Take the unquantised model, and --quantize int8 or fp8 to round its weights on load"
    )


def check_as_stored(quantization: dict[str, Any]) -> None:
    """Raise ModelError, or msgspec's, if compressed-tensors wants more done than to scale what is stored."""
    extras = msgspec.convert(quantization, _Extras)
    if extras.sparsity_config is not None and extras.sparsity_config.format != "dense":
        raise ModelError(f"compressed-tensors' sparsity '{extras.sparsity_config.format}' is not supported")
    schemes = [] if extras.transform_config is None else extras.transform_config.config_groups.values()
    # What is done to weights is in them already.
    for location in (place.location for scheme in schemes for place in scheme.apply):
        if location not in ("weight_input", "weight_output"):
            raise ModelError(f"compressed-tensors' transform of '{location}' in each step is not supported")


def _compressed_tensors(config: _CompressedTensors) -> StoredScales | None:
    weights = [group.weights for group in config.config_groups.values() if group.weights is not None]
    if not weights and config.kv_cache_scheme is not None:
        return None
    if config.format not in ("float-quantized", "int-quantized", "naive-quantized"):
        raise ModelError(
            f"weights in compressed-tensors' format '{config.format}' are not supported (known: {SUPPORTED}). "
            "Take the unquantised model, and --quantize int8 or fp8 to round its weights on load"
        )
    schemes = {_scheme(each) for each in weights}
    if len(schemes) != 1:
        raise ModelError(f"compressed-tensors with {len(schemes)} ways to quantise weights; one is supported")
    rows, cols = schemes.pop()
    return StoredScales(method="compressed-tensors", name="weight_scale", rows=rows, cols=cols)


def _scheme(weights: QuantizationArgs) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if weights.num_bits != 8 or not weights.symmetric or weights.actorder:
        order = ", in another order of inputs" if weights.actorder else ""
        kind = f"{weights.num_bits}-bit {'' if weights.symmetric else 'asymmetric '}{weights.type}{order}"
        raise ModelError(f"compressed-tensors' {kind} weights are not supported (known: symmetric 8-bit int or float)")
    if weights.strategy == "block" and isinstance(weights.block_structure, list):
        rows, cols = weights.block_structure
        return rows, cols
    if weights.strategy == "group" and weights.group_size:
        return 1, weights.group_size
    if weights.strategy in ("channel", "tensor"):
        return (1, 0) if weights.strategy == "channel" else (0, 0)
    raise ModelError(f"compressed-tensors' strategy '{weights.strategy}' is not supported for weights")


def _fp8(config: _Fp8) -> StoredScales:
    """Hugging Face's and DeepSeek's: blocks with a scale each; AutoFP8's: one scale for a matrix."""
    if config.weight_block_size is None:
        return StoredScales(method="fp8", name="weight_scale", rows=0, cols=0)
    rows, cols = config.weight_block_size
    return StoredScales(method="fp8", name="weight_scale_inv", rows=rows, cols=cols)
