"""The attention of a layer: Q, K and V of its rows, the cache, and the output projection."""

from dataclasses import dataclass

import torch

from ...kernels import AttentionPlan, QkNorm, QkvLinear, StepBatch
from .config import LayerConfig, ModelConfig
from .rope import head_order, qkv_order
from .rope_config import NO_ROPE, RopeConfig
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

    def __init__(self, config: ModelConfig, layer: LayerConfig, load: WeightLoader, prefix: str) -> None:
        hidden, head_dim, names = config.hidden_size, config.head_dim, config.names
        q, kv = config.num_q_heads * head_dim, config.num_kv_heads * head_dim
        self._backend = load.backend
        self._scale = config.attention_scale or head_dim**-0.5
        self._softcap = config.attention_softcap
        self._rows_dtype = load.dtypes.rows
        self._kv_scales = load.kv_scales(prefix, config.kv_scheme)
        widths = (q + 2 * kv,) if len(names.qkv) == 1 else (q, kv, kv)
        qkv = [(f"{prefix}.{name}", width) for name, width in zip(names.qkv, widths, strict=True)]
        order = qkv_order(layer.rope, head_dim, config.num_q_heads, config.num_kv_heads, config.qkv_grouped)
        shard = load.shard
        self._qkv = load.linear(qkv, hidden, config.qkv_bias, shard.qkv(config, order))
        self._output = load.summed_linear(
            f"{prefix}.{names.output}", hidden, q, config.output_bias, shard.head_cuts(config)
        )
        # fp32: they meet sums in fp32.
        self._sinks = None
        if config.attention_sinks:
            sinks = load.tensor(f"{prefix}.sinks", (config.num_q_heads,)).float()
            self._sinks = shard.of_heads(sinks, config.num_q_heads)
        has_norm = config.qk_norm and not (config.qk_norm_after and layer.rope == NO_ROPE)
        self._qk_norm = _load_qk_norm(config, load, prefix, layer.rope) if has_norm else None
        qkv_linear = self._qkv if self._qk_norm is None and isinstance(self._qkv, QkvLinear) else None
        self._rotating = qkv_linear if qkv_linear is not None and qkv_linear.can_rotate(head_dim) else None

    def __call__(self, normed: torch.Tensor, step: LayerStep) -> torch.Tensor:
        """Normalised rows in, rows [rows, hidden] out; the step's keys and values are written."""
        if self._rotating is not None:
            q = self._rotating.rotated(normed, step.cos_sin, step.batch, step.k_pages, step.v_pages, *self._kv_scales)
        else:
            q = self._backend.rope_and_write(
                self._qkv(normed), step.cos_sin, step.batch, step.k_pages, step.v_pages, self._qk_norm,
                *self._kv_scales, self._rows_dtype,
            )  # fmt: skip
        attended = self._backend.paged_attention(
            q, step.k_pages, step.v_pages, step.batch, step.plan, self._scale, self._softcap, *self._kv_scales,
            self._sinks,
        )  # fmt: skip
        return self._output(attended)


def _load_qk_norm(config: ModelConfig, load: WeightLoader, prefix: str, rope: RopeConfig) -> QkNorm:
    """Weights in the order that the projection's outputs are taken in."""
    order = head_order(rope, config.head_dim)

    def weight(name: str, heads: int) -> torch.Tensor:
        size = config.head_dim * (heads if config.qk_norm == "width" else 1)
        if not config.qk_norm_weight:
            return torch.ones(size, dtype=load.dtypes.rows, device=load.device)
        if config.qk_norm == "heads":
            loaded = load.vectors(f"{prefix}.{name}", heads, size)
        else:
            loaded = load.vector(f"{prefix}.{name}.weight", size)
        if config.qk_norm == "heads":
            loaded = load.shard.of_heads(loaded, heads, kv=heads == config.num_kv_heads)
        return loaded if order is None else loaded.view(-1, config.head_dim)[:, order.to(load.device)].flatten()

    q_name, k_name = config.names.qk_norm
    return QkNorm(
        weight(q_name, config.num_q_heads),
        weight(k_name, config.num_kv_heads),
        config.norm_eps,
        config.norm_offset,
        whole=config.qk_norm == "width",
        kind=config.qk_norm_kind,
        after=config.qk_norm_after,
    )
