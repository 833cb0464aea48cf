"""Model families, chosen by the architecture that config.json names."""

from pathlib import Path

import torch

from ...kernels import Backend
from ..checkpoint.errors import ModelError
from ..checkpoint.safetensors_dir import open_checkpoint
from .config import ModelConfig, read_config
from .kv_cache import KVCache, page_bytes
from .llama import LlamaModel
from .weights import WeightLoader

__all__ = ["FAMILIES", "KVCache", "LlamaModel", "ModelConfig", "load_model", "page_bytes", "read_config"]

FAMILIES = {"LlamaForCausalLM": LlamaModel}


def load_model(
    model_dir: Path, config: ModelConfig, backend: Backend, dtype: torch.dtype, device: torch.device, max_positions: int
) -> LlamaModel:
    """Load the weights of a directory onto a device. Raises ModelError."""
    family = FAMILIES.get(config.architecture)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(
            f"{model_dir / 'config.json'}: architecture {config.architecture} is not known (known: {known})"
        )
    checkpoint = open_checkpoint(model_dir)
    return family(config, checkpoint, WeightLoader(checkpoint, backend, dtype, device), max_positions)
