"""The norms around attention and MLP: RMSNorm, LayerNorm, or none."""

import torch

from .config import ModelConfig
from .weights import WeightLoader


class RmsNorm:
    """Of rows of the stream, into the weight's dtype."""

    def __init__(self, config: ModelConfig, load: WeightLoader, name: str) -> None:
        self._backend = load.backend
        self._weight = load.vector(f"{name}.weight", config.hidden_size)
        self._eps, self._offset = config.norm_eps, config.norm_offset

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._backend.rms_norm(x, self._weight, self._eps, self._offset)

    def add(self, x: torch.Tensor, residual: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Of ``x + residual``, which ``residual`` becomes."""
        return self._backend.add_rms_norm(x, residual, self._weight, self._eps, self._offset, out)


class LayerNorm:
    """The same with the mean taken away first, and a bias where the family has one."""

    def __init__(self, config: ModelConfig, load: WeightLoader, name: str) -> None:
        self._backend, self._eps = load.backend, config.norm_eps
        if config.norm_weight:
            self._weight = load.vector(f"{name}.weight", config.hidden_size) + config.norm_offset
        else:
            self._weight = torch.ones(config.hidden_size, dtype=load.dtypes.rows, device=load.device)
        self._bias = load.vector(f"{name}.bias", config.hidden_size) if config.norm_bias else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._backend.layer_norm(x, self._weight, self._bias, self._eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self._backend.add_layer_norm(x, residual, self._weight, self._bias, self._eps, out)


class NoNorm:
    """Rows of the stream as they are, in the dtype that enters a linear."""

    def __init__(self, load: WeightLoader) -> None:
        self._backend, self._rows_dtype = load.backend, load.dtypes.rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._backend.cast(x, self._rows_dtype)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        self._backend.add(x, residual)
        return self(residual)


def load_norm(config: ModelConfig, load: WeightLoader, name: str) -> RmsNorm | LayerNorm:
    """The norm of that name, of the family's kind. Raises ModelError."""
    return (RmsNorm if config.norm == "rms" else LayerNorm)(config, load, name)


class PostNorm:
    """RMSNorm of what attention or MLP returns, before it is added to the stream: so it keeps the stream's dtype."""

    def __init__(self, config: ModelConfig, load: WeightLoader, name: str) -> None:
        self._backend = load.backend
        self._weight = load.vector(f"{name}.weight", config.hidden_size).to(load.dtypes.stream)
        self._eps, self._offset = config.norm_eps, config.norm_offset

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._backend.rms_norm(x, self._weight, self._eps, self._offset)
