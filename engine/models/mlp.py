"""The MLP of a layer: gate and up in one product, their activation, down."""

import torch

from .config import ModelConfig
from .weights import WeightLoader


class GatedMlp:
    """``down(act(gate(x)) * up(x))``; ``prefix`` is its name in the checkpoint."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str, width: int | None = None) -> None:
        """``width``: if not the model's."""
        hidden, width, backend = config.hidden_size, width or config.intermediate_size, load.backend
        self._rows_dtype = load.dtypes.rows
        self._act_and_mul = backend.silu_and_mul if config.activation == "silu" else backend.gelu_tanh_and_mul
        if config.fused_projections:
            gate_up = [(f"{prefix}.gate_up_proj", 2 * width)]
        else:
            gate_up = [(f"{prefix}.gate_proj", width), (f"{prefix}.up_proj", width)]
        self._gate_up = load.linear(gate_up, hidden, config.mlp_bias)
        self._down = load.linear([(f"{prefix}.down_proj", hidden)], width, config.mlp_bias)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        return self._down(self._act_and_mul(self._gate_up(normed), self._rows_dtype))
