"""An adapter as PEFT writes it: adapter_config.json and adapter_model.safetensors in a directory.

Read is what changes nothing but linears of a model's layers, by low-rank matrices. All else that such a directory may
ask for (other methods, magnitudes, biases, embeddings, whole modules) is refused by name.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from ...kernels.low_rank import MAX_RANK, LowRank
from .errors import ModelError
from .json_files import read_json
from .safetensors_dir import Checkpoint, tensor_names

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<matrix>[AB])(\.default)?\.weight")
_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")  # PEFT's rule where layers_pattern doesn't say
_TOLD = 5  # names in a message

# What initialises only the update; others change the weights of the model that it belongs to.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# Fields that ask for what isn't done here, unless they are empty.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias beside lora_B",
    "fan_in_fan_out": "transposed weights",
    "modules_to_save": "whole modules that were trained",
    "trainable_token_indices": "tokens of the embedding that were trained",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "an activated LoRA (aLoRA)",
    "target_parameters": "parameters that belong to no linear, such as stacked experts",
    "megatron_config": "Megatron's layers",
    "arrow_config": "Arrow's routing between adapters",
}


class PeftConfig(Struct, kw_only=True):
    """The fields of adapter_config.json that are read, under PEFT's names."""

    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: str = "none"
    init_lora_weights: Any = True

    def rank(self, module: str) -> int:
        """Of the update of a module."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """By which the update of a module is multiplied."""
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, module: str) -> bool:
        """Whether PEFT would give a linear of that name an update."""
        if _names(self.exclude_modules, module):
            return False
        if self.target_modules == "all-linear":
            return True
        return _names(self.target_modules, module) and (
            isinstance(self.target_modules, str) or self._is_in_chosen_layer(module)
        )

    def _is_in_chosen_layer(self, module: str) -> bool:
        chosen = self.layers_to_transform
        if chosen is None:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or []
        rules = [rf".*\.{pattern}\.(\d+)\." for pattern in patterns] or [_LAYER.pattern]
        found = next((match for rule in rules if (match := re.match(rule, module))), None)
        return found is not None and int(found[1]) in ([chosen] if isinstance(chosen, int) else chosen)


def read_adapter(directory: Path, linears: Mapping[str, tuple[int, int]]) -> dict[str, LowRank]:
    """The updates of an adapter, by the names of the linears that they belong to. Raises ModelError.

    Args:
        linears: those of the model that may have one: outputs and inputs by name.
    """
    config = read_peft_config(directory)
    path = directory / WEIGHTS_FILE
    checkpoint = Checkpoint(directory, dict.fromkeys(tensor_names(path), path))
    found = _tensors_of(checkpoint, path)
    unknown = sorted(module for module in found if module not in linears)
    if experts := [module for module in unknown if ".experts." in module]:
        raise ModelError(
            f"{path}: {_listed(experts)}: adapters of experts are not supported; those of attention and of a shared "
            "expert are."
        )
    if unknown:
        raise ModelError(f"{path}: {_listed(unknown)}: this server adapts no module of that name of this model.")
    untargeted = sorted(module for module in found if not config.targets(module))
    if untargeted:
        raise ModelError(f"{path}: {_listed(untargeted)}: there, but {CONFIG_FILE} does not target it.")
    missing = sorted(module for module in linears if config.targets(module) and module not in found)
    if missing:
        raise ModelError(f"{path}: tensors of {_listed(missing)}, which {CONFIG_FILE} targets, are missing.")
    if not found:
        raise ModelError(f"{path}: nothing in it changes a linear of this model.")
    return {
        module: _read_update(checkpoint, path, names, linears[module], config, module)
        for module, names in found.items()
    }


def read_peft_config(directory: Path) -> PeftConfig:
    """adapter_config.json of a directory, with nothing in it that would have to be ignored. Raises ModelError."""
    path = directory / CONFIG_FILE
    said = read_json(path, dict[str, Any])
    if said is None:
        raise ModelError(f"{path}: no such file. An adapter is a directory that PEFT wrote.")
    kind = said.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{path}: peft_type {kind} is not supported (known: LORA).")
    for name, what in _REFUSED.items():
        if said.get(name):
            raise ModelError(f"{path}: {name}: {what}: not supported.")
    try:
        config = msgspec.convert(said, PeftConfig)
        _check(config)
    except (msgspec.ValidationError, ValueError, re.error) as error:
        raise ModelError(f"{path}: {error}.") from error
    return config


def _check(config: PeftConfig) -> None:
    """Raises ValueError, re.error."""
    if config.bias != "none":
        raise ValueError(f"bias: {config.bias}: biases that were trained are not supported")
    if not any(config.init_lora_weights is start or config.init_lora_weights == start for start in _PLAIN_STARTS):
        raise ValueError(
            f"init_lora_weights: {config.init_lora_weights}: it belongs to a changed base model. Convert the adapter "
            "to a plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )
    for rank in (config.r, *config.rank_pattern.values()):
        if not 1 <= rank <= MAX_RANK:
            raise ValueError(f"rank {rank}: it must be in [1, {MAX_RANK}]")
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        re.compile(pattern)
    for modules in (config.target_modules, config.exclude_modules):
        if isinstance(modules, str):
            re.compile(modules)


def _tensors_of(checkpoint: Checkpoint, path: Path) -> dict[str, dict[str, str]]:
    """Names of A and B of each module. Raises ModelError for a tensor of another kind."""
    found: dict[str, dict[str, str]] = {}
    for name in checkpoint:
        match = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            raise ModelError(f"{path}: tensor {name}: only lora_A and lora_B of linears are supported.")
        found.setdefault(match["module"], {})[match["matrix"]] = name
    for module, names in found.items():
        if len(names) < 2:
            raise ModelError(f"{path}: {module} has lora_{next(iter(names))}, but not the other matrix.")
    return found


def _read_update(
    checkpoint: Checkpoint,
    path: Path,
    names: Mapping[str, str],
    shape: tuple[int, int],
    config: PeftConfig,
    module: str,
) -> LowRank:
    rank, (outputs, inputs) = config.rank(module), shape
    read: list[torch.Tensor] = []
    for matrix, wanted in (("A", (rank, inputs)), ("B", (outputs, rank))):
        name = names[matrix]
        if (stored := checkpoint.shape(name)) != wanted:
            raise ModelError(
                f"{path}: tensor {name} has shape {list(stored)}; rank {rank} and this model ask for {list(wanted)}."
            )
        tensor = checkpoint.get(name, wanted)
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: tensor {name} has values that are not finite.")
        read.append(tensor)
    a, b = read
    return LowRank(a, b, config.scale(module))


def _by_pattern(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """PEFT's rule: the first pattern that the end of the name, from a dot on, matches."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)


def _names(modules: list[str] | str | None, module: str) -> bool:
    """PEFT's rule: a regular expression of the whole name, or a list of names or of their ends."""
    if isinstance(modules, str):
        return re.fullmatch(modules, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in modules or ())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more
