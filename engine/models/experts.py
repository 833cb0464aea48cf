"""A mixture of experts in place of a layer's MLP: each row goes to the few that its router chooses."""

from collections.abc import Callable

import torch

from ...kernels import Backend
from ...kernels.routing import RoutingRule
from .config import ExpertsConfig, ModelConfig
from .mlp import GatedMlp, gated_activation
from .weights import WeightLoader


class Experts:
    """``sum_i weight_i * down_i(act(gate_i(x)) * up_i(x))`` over a row's experts i; ``prefix``: the layer's name."""

    def __init__(self, config: ModelConfig, experts: ExpertsConfig, load: WeightLoader, prefix: str) -> None:
        hidden, backend, module = config.hidden_size, load.backend, f"{prefix}.{experts.module}"
        self._backend = backend
        self._rule = RoutingRule(experts.slots, experts.scoring, experts.renormalise, experts.scale, experts.tolerance)
        self._rows_dtype = load.dtypes.rows
        self._act_and_mul = _activation(config, experts, backend)
        self._router = load.float_linear(f"{module}.{experts.router}", experts.count, hidden, experts.bias)
        before, width, bias = load.linear_bytes, experts.width, experts.bias
        gate, up, down = experts.names
        names = [f"{module}.experts.{index}" for index in range(experts.count)]
        self._gate_up = load.expert_linears(
            [[(f"{name}.{gate}", width), (f"{name}.{up}", width)] for name in names], hidden, bias
        )
        self._down = load.summed_expert_linears([f"{name}.{down}" for name in names], hidden, width, bias)
        # What a row reads; many rows read up to all of them.
        load.linear_bytes = before + (load.linear_bytes - before) * experts.slots // experts.count
        self._weighs_input = experts.weighs_input
        self._choice_bias = self._shared = self._shared_gate = None
        if experts.choice_bias:
            self._choice_bias = load.fp32(f"{module}.{experts.choice_bias}", experts.count)
        if experts.shared_width:
            self._shared = GatedMlp(config, load, f"{prefix}.{experts.shared}", experts.shared_width)
        if experts.shared_gate:
            self._shared_gate = load.float_linear(f"{prefix}.{experts.shared_gate}", 1, hidden)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out."""
        backend = self._backend
        routing = backend.route(self._router(normed), self._rule, self._choice_bias)
        gate_up = self._gate_up(backend.take_rows(normed, routing.rows), routing)
        if self._weighs_input:  # they are not rounded to the rows' dtype here
            routing = backend.weigh(gate_up, routing)
        y = self._down(self._act_and_mul(gate_up, self._rows_dtype), routing)
        shared = None if self._shared is None else self._shared(normed)
        shared_gate = None if self._shared_gate is None else self._shared_gate(normed)
        return backend.combine(y, routing, shared, shared_gate)


def _activation(
    config: ModelConfig, experts: ExpertsConfig, backend: Backend
) -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    """Gate and up in, [rows, 2 * width], what enters down out, [rows, width] in the dtype."""
    if (clamp := experts.clamp) is not None:
        return lambda gate_up, dtype: backend.clamped_silu_and_mul(gate_up, clamp.alpha, clamp.limit, dtype)
    return gated_activation(config, backend)
