"""Checkpoints with weights packed in 2 to 8 bits: what quantization_config of config.json says of them.

Only the weights are used in that form. Activations that a checkpoint wants rounded as well stay in the model's dtype.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .errors import ModelError
from .quantized import QuantizationArgs, check_as_stored

PackedMethod = Literal["gptq", "awq", "compressed-tensors", "mxfp4"]

PACKED = "pack-quantized"  # compressed-tensors' name of its format
BITS: dict[str, tuple[int, ...]] = {"gptq": (2, 3, 4, 8), "awq": (4,), "compressed-tensors": (2, 3, 4, 8)}


class Packing(Struct, frozen=True, kw_only=True):
    """How the weight of a linear is packed."""

    bits: int
    group: int  # inputs that share a scale; -1: all
    symmetric: bool = False  # no zero points are stored
    added_zero: int = 0  # what the stored zero points lack
    reordered: bool = False  # the group of each input is stored

    def group_size(self, module: str, inputs: int) -> int:
        """Inputs that share a scale. Raises ModelError unless it divides all of them."""
        size = inputs if self.group == -1 else self.group
        if inputs % size:
            raise ModelError(f"{module}: groups of {size} inputs don't divide {inputs}, which is not supported")
        return size


class Rule(Struct, frozen=True):
    """What holds of the modules whose name a pattern matches; None: they are plain floats."""

    pattern: str  # of the name's beginning
    packing: Packing | None


class PackedWeights(Struct, frozen=True, kw_only=True):
    """How the linears of a checkpoint are packed."""

    method: PackedMethod
    rules: tuple[Rule, ...]  # the first that matches holds

    def packing(self, module: str) -> Packing | None:
        """Of a linear by its name in the checkpoint; None: a plain weight."""
        return next((rule.packing for rule in self.rules if re.match(rule.pattern, module)), None)


class _GptqOverride(Struct):
    bits: int | None = None
    group_size: int | None = None
    desc_act: bool | None = None
    method: str | None = None
    format: str | None = None


class _Gptq(Struct):
    bits: int
    group_size: int
    desc_act: bool = False
    checkpoint_format: str | None = None
    format: str | None = None  # its newer name
    is_marlin_format: bool = False
    pack_dtype: str = "int32"
    rotation: str | None = None
    dynamic: dict[str, _GptqOverride] | None = None


class _Awq(Struct):
    bits: int
    group_size: int
    version: str = "gemm"
    checkpoint_format: str = "gemm"  # GPTQModel's word for the version
    modules_to_not_convert: list[str] | None = None


class _Group(Struct):
    targets: list[str] = []
    weights: QuantizationArgs | None = None
    format: str | None = None


class _CompressedTensors(Struct):
    format: str = "dense"
    config_groups: dict[str, _Group] = {}
    ignore: list[str] | None = None


def read_packed(quantization: dict[str, Any]) -> PackedWeights | None:
    """How weights are packed, or None if they aren't in a way that is known here. Raises ModelError."""
    method = quantization.get("quant_method")
    try:
        if method == "gptq":
            weights = _gptq(msgspec.convert(quantization, _Gptq))
        elif method == "awq":
            weights = _awq(msgspec.convert(quantization, _Awq))
        elif method == "compressed-tensors":
            config = msgspec.convert(quantization, _CompressedTensors)
            if PACKED not in (config.format, *(group.format for group in config.config_groups.values())):
                return None
            check_as_stored(quantization)
            weights = _compressed_tensors(config)
        else:
            return None
    except msgspec.ValidationError as error:
        raise ModelError(f"quantization_config: {error}") from error
    for rule in weights.rules:
        _check(weights.method, rule)
    return weights


def _check(method: str, rule: Rule) -> None:
    try:
        re.compile(rule.pattern)
    except re.error as error:
        raise ModelError(f"quantization_config: '{rule.pattern}' is no pattern of module names ({error})") from error
    if rule.packing is None:
        return
    if rule.packing.bits not in BITS[method]:
        known = ", ".join(map(str, BITS[method]))
        raise ModelError(f"{method} weights in {rule.packing.bits} bits are not supported (known: {known})")
    if rule.packing.group != -1 and rule.packing.group < 1:
        raise ModelError(f"quantization_config: a group of {rule.packing.group} inputs")


def _gptq(config: _Gptq) -> PackedWeights:
    form = "marlin" if config.is_marlin_format else config.checkpoint_format or config.format or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise ModelError(f"gptq weights in the format '{form}' are not supported (known: gptq, gptq_v2)")
    if config.pack_dtype != "int32":
        raise ModelError(f"gptq weights packed in {config.pack_dtype} are not supported (known: int32)")
    if config.rotation is not None:
        raise ModelError("gptq with a rotation is not supported: it wants inputs of some linears rotated, too")
    added_zero = 1 if form == "gptq" else 0
    base = Packing(bits=config.bits, group=config.group_size, added_zero=added_zero, reordered=config.desc_act)
    return PackedWeights(method="gptq", rules=(*_gptq_rules(config, base, form), Rule("", base)))


def _gptq_rules(config: _Gptq, base: Packing, form: str) -> Iterable[Rule]:
    """GPTQModel's: a regular expression, after '-:' for what is not quantised or '+:', which is optional."""
    for pattern, override in (config.dynamic or {}).items():
        if pattern.startswith("-:"):
            yield Rule(pattern[2:], None)
            continue
        for name, known, value in (("method", "gptq", override.method), ("format", form, override.format)):
            if value not in (None, known):
                raise ModelError(f"gptq whose modules '{pattern}' have the {name} '{value}' is not supported")
        fields = {"bits": override.bits, "group": override.group_size, "reordered": override.desc_act}
        changed = {name: value for name, value in fields.items() if value is not None}
        yield Rule(pattern.removeprefix("+:"), msgspec.structs.replace(base, **changed))


def _awq(config: _Awq) -> PackedWeights:
    for version in (config.version.lower(), config.checkpoint_format.lower()):
        if version != "gemm":
            raise ModelError(f"awq weights of version '{version}' are not supported (known: gemm)")
    # A part of the name is enough to exclude a module.
    plain = [Rule(f".*{re.escape(part)}", None) for part in config.modules_to_not_convert or []]
    packing = Packing(bits=config.bits, group=config.group_size)
    return PackedWeights(method="awq", rules=(*plain, Rule("", packing)))


def _compressed_tensors(config: _CompressedTensors) -> PackedWeights:
    rules = [Rule(_name_pattern(name), None) for name in config.ignore or []]
    by_target: list[tuple[int, Rule]] = []
    for group in config.config_groups.values():
        if group.weights is None:
            continue
        form = group.format or config.format
        if form != PACKED:
            raise ModelError(f"compressed-tensors' format '{form}' is not supported beside or for packed weights")
        packing = _scheme(group.weights)
        for target in group.targets:
            # Names come before patterns, and those before the class of a module, which is the same for all here.
            rank = 2 if target == "Linear" else 1 if target.startswith("re:") else 0
            by_target.append((rank, Rule("" if rank == 2 else _name_pattern(target), packing)))
    rules += [rule for _, rule in sorted(by_target, key=lambda each: each[0])]
    return PackedWeights(method="compressed-tensors", rules=tuple(rules))


def _name_pattern(name: str) -> str:
    """Of compressed-tensors' way to name modules: a name or, after 're:', a regular expression."""
    return name[3:] if name.startswith("re:") else rf"{re.escape(name)}\Z"


def _scheme(weights: QuantizationArgs) -> Packing:
    if weights.type != "int":
        raise ModelError(f"compressed-tensors' packed {weights.type} weights are not supported (known: int)")
    group = -1 if weights.group_size is None else weights.group_size
    strategy = weights.strategy or ("tensor" if weights.group_size is None else "group")
    if strategy not in ("channel", "group"):
        raise ModelError(f"compressed-tensors' strategy '{strategy}' is not supported for packed weights")
    return Packing(
        bits=weights.num_bits,
        group=-1 if strategy == "channel" else group,
        symmetric=weights.symmetric,
        reordered=weights.actorder in (True, "group", "dynamic"),  # the others only order the work of the tool
    )
