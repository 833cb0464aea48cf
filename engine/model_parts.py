"""From a config to the part of the model that one rank has: backend, dtypes, weights."""

import logging
from dataclasses import dataclass

import torch

from ..kernels import Backend, BackendName, Unsupported, load_backend
from ..kernels.instruction_sets import choose_set
from .checkpoint.errors import ModelError
from .checkpoint.quantized import QuantizeName
from .config import EngineConfig, Quantization, max_adapters
from .cores import usable_cores
from .models.config import ModelConfig
from .models.decoder import DecoderModel
from .models.dtypes import Dtypes, choose_dtypes
from .models.families import read_config
from .models.load import load_model
from .models.shard import SIZES, Shard, check_division
from .numa import place

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPlan:
    """How a model is going to be served, before its weights are loaded."""

    config: EngineConfig
    model: ModelConfig
    backend_name: BackendName
    backend: Backend
    dtypes: Dtypes
    device: torch.device
    quantize: QuantizeName | None  # to what its weights are rounded

    @property
    def max_positions(self) -> int:
        """Of a sequence."""
        return min(self.config.max_total_tokens or self.model.max_positions, self.model.max_positions)

    def load(self, rank: int = 0, memory: torch.Tensor | None = None) -> DecoderModel:
        """The weights of a rank; ``memory``: what all ranks share, None if there is one. Raises ModelError."""
        config, shard = self.config, Shard()
        if config.num_shard > 1 or config.shard_invariant:
            try:
                shard = Shard(self.backend.new_exchange(rank, config.num_shard, memory))
            except Unsupported as error:
                raise ModelError(f"--num-shard {config.num_shard}: {error}") from error
        return load_model(
            config.model_dir, self.model, self.backend, self.dtypes, self.device, self.max_positions, self.quantize,
            max_adapters(config), shard,
        )  # fmt: skip


def plan_model(config: EngineConfig, rank: int = 0) -> ModelPlan:
    """Read its config.json, choose backend and dtypes, and size the pool of threads. Raises ModelError."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and config.num_shard > 1:
        device = _own_gpu(config.num_shard, rank)
    backend_name: BackendName = config.backend or ("triton" if device.type == "cuda" else "cpu")
    if backend_name == "cpu":
        _use_instructions(config.cpu_features)
    backend = load_backend(backend_name, config.exact)
    if device.type == "cpu":
        if (placed := place(config.numa, config.threads)) is not None:
            logger.info("%s", placed)
        _use_threads(max(1, (config.threads or usable_cores()) // config.num_shard))
    model = read_config(config.model_dir)
    if config.num_shard > 1 or config.shard_invariant:
        _check_shards(config, model)
    dtypes = choose_dtypes(backend, config.dtype or model.dtype, config.activation_dtype, config.kv_cache_dtype)
    return ModelPlan(config, model, backend_name, backend, dtypes, device, rounding(config.quantize, model))


def _own_gpu(shards: int, rank: int) -> torch.device:
    """Of those that CUDA_VISIBLE_DEVICES leaves, the one of that number."""
    if shards > torch.cuda.device_count():
        raise ModelError(f"--num-shard {shards}: {torch.cuda.device_count()} GPUs can be seen")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _check_shards(config: EngineConfig, model: ModelConfig) -> None:
    if config.num_shard not in SIZES:
        raise ModelError(f"--num-shard {config.num_shard}: possible: {', '.join(map(str, SIZES))}")
    check_division(model, config.num_shard)
    if config.num_shard > 1 and config.prefix_cache_dir is not None and config.prefix_cache:
        raise ModelError("--prefix-cache-dir: not with --num-shard: a rank's pages have its own heads only")


def _use_instructions(wanted: str | None) -> None:
    """Choose what the CPU kernels are made of, before they are imported. Raises ModelError."""
    try:
        chosen, reason = choose_set(wanted)
    except Unsupported as error:
        raise ModelError(f"--cpu-features: {error}" if wanted else str(error)) from error
    logger.info("cpu kernels: %s, %s", chosen.name, reason)


def _use_threads(threads: int) -> None:
    """Threads of the CPU kernels, and of torch while it packs the weights."""
    from ..kernels.cpu.thread_pool import choose_threads  # with Numba, which a GPU doesn't need

    choose_threads(threads)
    torch.set_num_threads(threads)


def rounding(wanted: Quantization | None, model: ModelConfig) -> QuantizeName | None:
    """To what weights are rounded on load. Raises ModelError if the checkpoint isn't of the form that was asked for."""
    if wanted is None or wanted == "int8" or wanted == "fp8" or wanted == "int4":
        return wanted
    if wanted != model.stored_form:
        raise ModelError(f"--quantize {wanted}: the checkpoint is {model.stored_form or 'not'} quantised")
    return None
