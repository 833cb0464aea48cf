"""Model families, chosen by the architecture that config.json names."""

from pathlib import Path

import torch

from ...kernels import Backend
from ..checkpoint.safetensors_dir import open_checkpoint
from .config import ModelConfig
from .config import read_config as _read_config
from .dtypes import Dtypes, choose_dtypes
from .kv_cache import KVCache, page_bytes
from .llama import LlamaModel
from .weights import WeightLoader

__all__ = [
    "FAMILIES",
    "Dtypes",
    "KVCache",
    "LlamaModel",
    "ModelConfig",
    "choose_dtypes",
    "load_model",
    "page_bytes",
    "read_config",
]

FAMILIES = {"LlamaForCausalLM": LlamaModel}


def read_config(model_dir: Path) -> ModelConfig:
    """Read config.json of a model directory of a known family. Raises ModelError."""
    return _read_config(model_dir, FAMILIES)


def load_model(
    model_dir: Path, config: ModelConfig, backend: Backend, dtypes: Dtypes, device: torch.device, max_positions: int
) -> LlamaModel:
    """Load the weights of a directory onto a device. Raises ModelError."""
    checkpoint = open_checkpoint(model_dir)
    loader = WeightLoader(checkpoint, backend, dtypes, device)
    return FAMILIES[config.architecture](config, checkpoint, loader, max_positions)
