"""Adapter directories in PEFT's form, made without PEFT: where no model of transformers is at hand."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

# Some linears of the default model: outputs and inputs.
DEFAULT_MODEL_LINEARS = {
    f"model.layers.{layer}.self_attn.{name}": shape
    for layer in range(30)
    for name, shape in (("q_proj", (576, 576)), ("v_proj", (192, 576)))
}


def write_adapter(
    directory: Path, linears: Mapping[str, tuple[int, int]], seed: int = 0, rank: int = 4, **config: object
) -> Path:
    """Random matrices for ``linears`` (outputs and inputs by name); ``config``: fields of adapter_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in linears.items():
        for matrix, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            values = torch.randn(shape, generator=generator) * shape[1] ** -0.5
            tensors[f"base_model.model.{name}.lora_{matrix}.weight"] = values
    save_file(tensors, directory / "adapter_model.safetensors")
    targets = sorted({name.rpartition(".")[2] for name in linears})
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, **config}
    (directory / "adapter_config.json").write_text(json.dumps(said))
    return directory
