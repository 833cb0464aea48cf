"""Model families, chosen by the architecture that config.json names."""

import ctypes
from pathlib import Path

import torch

from ...kernels import Backend
from ..checkpoint.quantized import QuantizeName
from ..checkpoint.safetensors_dir import open_checkpoint
from .config import Family, ModelConfig
from .config import read_config as _read_config
from .decoder import DecoderModel
from .dtypes import Dtypes, choose_dtypes
from .gemma3 import gemma3
from .kv_cache import KVCache, page_bytes
from .llama import llama, mistral
from .phi3 import phi3
from .qwen import qwen2, qwen3
from .weights import WeightLoader

__all__ = [
    "FAMILIES",
    "DecoderModel",
    "Dtypes",
    "KVCache",
    "ModelConfig",
    "choose_dtypes",
    "load_model",
    "page_bytes",
    "read_config",
]

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Gemma3ForCausalLM": gemma3,
    "Phi3ForCausalLM": phi3,
}


def read_config(model_dir: Path) -> ModelConfig:
    """Read config.json of a model directory of a known family. Raises ModelError."""
    return _read_config(model_dir, FAMILIES)


def load_model(
    model_dir: Path,
    config: ModelConfig,
    backend: Backend,
    dtypes: Dtypes,
    device: torch.device,
    max_positions: int,
    quantize: QuantizeName | None = None,
) -> DecoderModel:
    """Load the weights of a directory onto a device; ``quantize`` rounds the linears' to 8 bits. Raises ModelError."""
    checkpoint = open_checkpoint(model_dir)
    loader = WeightLoader(checkpoint, backend, dtypes, device, config.stored_scales, quantize)
    model = DecoderModel(config, checkpoint, loader, max_positions)
    _return_freed_memory()
    return model


def _return_freed_memory() -> None:
    """Give the system what loading freed. glibc keeps it: 100 MB of a 135 M model in bf16, 220 MB in int8."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
