"""The MLP of a layer: gate and up in one product, their activation, down; or up without a gate."""

from collections.abc import Callable

import torch

from ...kernels import Backend
from .config import ModelConfig
from .weights import WeightLoader


def gated_activation(config: ModelConfig, backend: Backend) -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    """Gate and up in, [rows, 2 * width], what enters down out, [rows, width] in the dtype."""
    return backend.silu_and_mul if config.activation == "silu" else backend.gelu_tanh_and_mul


class GatedMlp:
    """``down(act(gate(x)) * up(x))``; ``prefix`` is its name in the checkpoint."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str, width: int | None = None) -> None:
        """``width``: if not the model's."""
        hidden, width = config.hidden_size, width or config.intermediate_size
        backend, names = load.backend, config.names
        self._rows_dtype = load.dtypes.rows
        self._act_and_mul = gated_activation(config, backend)
        gate_up = [(f"{prefix}.{name}", 2 * width // len(names.up)) for name in names.up]
        self._gate_up = load.linear(gate_up, hidden, config.mlp_bias)
        self._down = load.linear([(f"{prefix}.{names.down}", hidden)], width, config.mlp_bias)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        return self._down(self._act_and_mul(self._gate_up(normed), self._rows_dtype))


class PlainMlp:
    """``down(act(up(x)))``."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str) -> None:
        hidden, width, names = config.hidden_size, config.intermediate_size, config.names
        assert config.activation != "silu", "of no family without a gate"
        self._backend, self._rows_dtype, self._activation = load.backend, load.dtypes.rows, config.activation
        (up,) = names.up
        self._up = load.linear([(f"{prefix}.{up}", width)], hidden, config.mlp_bias)
        self._down = load.linear([(f"{prefix}.{names.down}", hidden)], width, config.mlp_bias)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        return self._down(self._backend.act(self._up(normed), self._activation, self._rows_dtype))
