"""The decoder that all families share: pre-norm blocks of grouped-query attention and a gated MLP or experts.

What a family adds to Llama's is in its ModelConfig; a family's file fills that in.
"""

from collections.abc import Mapping

import torch

from ...kernels import AttentionPlan, StepBatch
from ..log import Progress
from .attention import Attention, LayerStep
from .config import LayerConfig, ModelConfig
from .experts import Experts
from .kv_cache import KVCache
from .mlp import GatedMlp
from .rope import cos_sin_table
from .weights import WeightLoader, Weights


class DecoderLayer:
    """One block. Rows in, rows out; ``residual`` is carried beside them and added inside the next norm."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, load: WeightLoader, prefix: str) -> None:
        hidden = config.hidden_size
        self._backend = load.backend
        self._eps, self._offset = config.rms_norm_eps, config.norm_offset
        self._attention = Attention(config, load, f"{prefix}.self_attn")
        self._mlp = (
            GatedMlp(config, load, f"{prefix}.mlp")
            if layer.experts is None
            else Experts(config, layer.experts, load, prefix)
        )
        self._input_norm = load.vector(f"{prefix}.input_layernorm.weight", hidden)
        self._post_attention = self._post_mlp = None
        if config.sandwich_norms:
            # What these return is added to the stream, so it has the stream's dtype.
            stream = load.dtypes.stream
            self._post_attention = load.vector(f"{prefix}.post_attention_layernorm.weight", hidden).to(stream)
            self._post_mlp = load.vector(f"{prefix}.post_feedforward_layernorm.weight", hidden).to(stream)
            self._mlp_norm = load.vector(f"{prefix}.pre_feedforward_layernorm.weight", hidden)
        else:
            self._mlp_norm = load.vector(f"{prefix}.post_attention_layernorm.weight", hidden)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, step: LayerStep) -> tuple[torch.Tensor, ...]:
        """``x`` [rows, hidden] is what the layer before made; it is the embedding where ``residual`` is None."""
        backend = self._backend
        if residual is None:
            residual = x
            normed = backend.rms_norm(x, self._input_norm, self._eps, self._offset)
        else:
            normed = backend.add_rms_norm(x, residual, self._input_norm, self._eps, self._offset)
        x = self._attention(normed, step)
        if self._post_attention is not None:
            x = backend.rms_norm(x, self._post_attention, self._eps, self._offset)
        normed = backend.add_rms_norm(x, residual, self._mlp_norm, self._eps, self._offset)
        x = self._mlp(normed)
        if self._post_mlp is not None:
            x = backend.rms_norm(x, self._post_mlp, self._eps, self._offset)
        return x, residual


class DecoderModel:
    """Embedding, blocks, final norm and head.

    Attributes:
        linear_bytes: what a step of one row reads of weights: those of the linears, the head included.
        windows: of its layers, ascending, 0 for the whole context.
    """

    def __init__(self, config: ModelConfig, checkpoint: Weights, load: WeightLoader, max_positions: int) -> None:
        self.config = config
        self._backend = load.backend
        self._stream_dtype = load.dtypes.stream
        # Rounded as the reference does, which multiplies in the model's dtype.
        self._embedding_scale = torch.tensor(config.embedding_scale, dtype=load.dtypes.model).item()
        self._embedding = load.embedding("model.embed_tokens", config.vocab_size, config.hidden_size)
        self._layers = []
        progress = Progress("loading weights", config.num_layers, "layers")
        for i, layer in enumerate(config.layers):
            self._layers.append(DecoderLayer(config, layer, load, f"model.layers.{i}"))
            progress.add(1)
        self._norm = load.vector("model.norm.weight", config.hidden_size)
        # A checkpoint may leave the head out although it isn't said to be tied, or ship a copy although it is.
        tied = config.tie_embeddings or "lm_head.weight" not in checkpoint
        head = "model.embed_tokens" if tied else "lm_head"
        self._head = load.linear([(head, config.vocab_size)], config.hidden_size, bias=False)
        self._cos_sin = {
            rope: cos_sin_table(rope, config.head_dim, max_positions).to(load.device)
            for rope in {layer.rope for layer in config.layers}
        }
        self.linear_bytes = load.linear_bytes
        self.windows = sorted({layer.window for layer in config.layers})

    def body(
        self,
        token_ids: torch.Tensor,
        batch: StepBatch,
        plans: Mapping[int, AttentionPlan],
        cache: KVCache,
        hidden: torch.Tensor,
    ) -> None:
        """One step up to the head.

        Args:
            token_ids: int64 [rows].
            batch: positions, slots and sequences of the rows.
            plans: of this batch, one for each of ``windows``.
            cache: read and written.
            hidden: [rows, hidden_size] in the rows' dtype, written: what the head reads.
        """
        backend, config = self._backend, self.config

        def step(index: int, layer: LayerConfig) -> LayerStep:
            pages = (cache.k_pages[index], cache.v_pages[index])
            return LayerStep(batch, plans[layer.window], self._cos_sin[layer.rope], *pages)

        x = backend.embed(self._embedding, token_ids, self._embedding_scale, self._stream_dtype)
        residual = None
        for index, (layer, layer_config) in enumerate(zip(self._layers, config.layers, strict=True)):
            x, residual = layer(x, residual, step(index, layer_config))
        assert residual is not None, "a model without layers"
        backend.add_rms_norm(x, residual, self._norm, config.rms_norm_eps, config.norm_offset, hidden)

    def head(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits of some rows.

        Args:
            hidden: [any, hidden_size], as ``body`` wrote it.
            rows: int64 [n], the rows whose next token is wanted.

        Returns:
            fp32 [n, vocab].
        """
        logits = self._head(self._backend.take_rows(hidden, rows))
        if logits.dtype != torch.float32:
            logits = logits.float()
        if self.config.logit_softcap:
            self._backend.soft_cap(logits, self.config.logit_softcap)
        return logits
