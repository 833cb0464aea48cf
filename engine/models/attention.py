"""The attention of a layer: Q, K and V of its rows, the cache, and the output projection."""

from dataclasses import dataclass

import torch

from ...kernels import AttentionPlan, QkNorm, StepBatch
from .config import ModelConfig
from .rope import rotary_order
from .weights import WeightLoader


@dataclass
class LayerStep:
    """What one layer reads of a step beside its rows."""

    batch: StepBatch
    plan: AttentionPlan  # of the layer's window
    cos_sin: torch.Tensor  # of the layer's rotary embedding
    k_pages: torch.Tensor
    v_pages: torch.Tensor


class Attention:
    """Grouped-query attention over the paged cache; ``prefix`` is its name in the checkpoint."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str) -> None:
        hidden, head_dim = config.hidden_size, config.head_dim
        q, kv = config.num_q_heads * head_dim, config.num_kv_heads * head_dim
        self._backend = load.backend
        self._scale = config.attention_scale or head_dim**-0.5
        self._softcap = config.attention_softcap
        self._rows_dtype = load.dtypes.rows
        self._kv_scales = load.kv_scales(prefix, config.kv_scheme)
        if config.fused_projections:
            qkv = [(f"{prefix}.qkv_proj", q + 2 * kv)]
        else:
            qkv = [(f"{prefix}.{part}_proj", size) for part, size in (("q", q), ("k", kv), ("v", kv))]
        order = rotary_order(
            config.layers[0].rope, head_dim, config.num_q_heads + config.num_kv_heads, config.num_kv_heads
        )
        self._qkv = load.linear(qkv, hidden, config.qkv_bias, order)
        self._output = load.linear([(f"{prefix}.o_proj", hidden)], q, config.output_bias)
        self._qk_norm = None
        if config.qk_norm:
            q_weight, k_weight = (load.vector(f"{prefix}.{part}_norm.weight", head_dim) for part in "qk")
            self._qk_norm = QkNorm(q_weight, k_weight, config.rms_norm_eps, config.norm_offset)

    def __call__(self, normed: torch.Tensor, step: LayerStep) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out; the step's keys and values are written."""
        q = self._backend.rope_and_write(
            self._qkv(normed), step.cos_sin, step.batch, step.k_pages, step.v_pages, self._qk_norm,
            *self._kv_scales, self._rows_dtype,
        )  # fmt: skip
        return self._output(
            self._backend.paged_attention(
                q, step.k_pages, step.v_pages, step.batch, step.plan, self._scale, self._softcap, *self._kv_scales
            )
        )
