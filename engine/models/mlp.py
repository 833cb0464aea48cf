"""The MLP of a layer: gate and up in one product, their activation, down; or up without a gate."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...kernels import Backend, GatedActivation, GatedLinear
from .config import ModelConfig
from .weights import WeightLoader

XIELU_CONSTANTS = (("beta", 0.5), ("eps", -1e-6))  # where a checkpoint has none (arXiv 2411.13010)


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
        self._gate_up = load.linear(gate_up, hidden, config.mlp_bias, load.shard.gated(width))
        cuts = load.shard.width_cuts(width)
        self._down = load.summed_linear(f"{prefix}.{names.down}", hidden, width, config.mlp_bias, cuts)
        self._activation: GatedActivation = "silu" if config.activation == "silu" else "gelu_tanh"
        gated = self._gate_up if isinstance(self._gate_up, GatedLinear) else None
        self._gated = gated if gated is not None and gated.can_gate() else None

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        if self._gated is not None:
            return self._down(self._gated.gated(normed, self._activation))
        return self._down(self._act_and_mul(self._gate_up(normed), self._rows_dtype))


def plain_activation(
    config: ModelConfig, load: WeightLoader, prefix: str
) -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    """What up gives in, what enters down out, both [rows, width]; ``prefix``: of the MLP, which may have learned it."""
    backend, kind = load.backend, config.activation
    assert kind != "silu", "of no family without a gate"
    if kind != "xielu":
        return lambda x, dtype: backend.act(x, kind, dtype)
    beta, eps = (load.fp32(f"{prefix}.act_fn.{name}", 1, usual).item() for name, usual in XIELU_CONSTANTS)
    positive, negative = (F.softplus(load.fp32(f"{prefix}.act_fn.alpha_{sign}", 1)).item() for sign in "pn")
    return lambda x, dtype: backend.xielu(x, positive, beta + negative, beta, eps, dtype)


class PlainMlp:
    """``down(act(up(x)))``."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str) -> None:
        hidden, width, names = config.hidden_size, config.intermediate_size, config.names
        self._rows_dtype, self._act = load.dtypes.rows, plain_activation(config, load, prefix)
        (up,) = names.up
        self._up = load.linear([(f"{prefix}.{up}", width)], hidden, config.mlp_bias, load.shard.plain(width))
        cuts = load.shard.width_cuts(width)
        self._down = load.summed_linear(f"{prefix}.{names.down}", hidden, width, config.mlp_bias, cuts)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        return self._down(self._act(self._up(normed), self._rows_dtype))
