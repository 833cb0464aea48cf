"""The decoder that all families share: blocks of grouped-query attention and an MLP or experts, with norms around them.

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
from .mlp import GatedMlp, PlainMlp
from .norm import NoNorm, PostNorm, load_norm
from .rope import cos_sin_table
from .weights import WeightLoader, Weights


class DecoderLayer:
    """One block. Rows in, rows out; ``residual`` is carried beside them and added inside the next norm."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, load: WeightLoader, prefix: str) -> None:
        names = config.names
        self._backend = load.backend
        self._parallel = config.parallel_residual
        self._attention = Attention(config, layer, load, f"{prefix}.{names.attention}")
        mlp = f"{prefix}.{names.mlp}" if names.mlp else prefix
        self._mlp: Experts | GatedMlp | PlainMlp
        if layer.experts is not None:
            self._mlp = Experts(config, layer.experts, load, prefix)
        else:
            self._mlp = (GatedMlp if config.gated_mlp else PlainMlp)(config, load, mlp)
        self._attention_norm, self._mlp_norm = (
            load_norm(config, load, f"{prefix}.{name}") if name else NoNorm(load)
            for name in (names.attention_norm, names.mlp_norm)
        )
        self._shares_norm = config.parallel_residual and not names.mlp_norm
        self._attention_post_norm, self._mlp_post_norm = (
            PostNorm(config, load, f"{prefix}.{name}") if name else None
            for name in (names.attention_post_norm, names.mlp_post_norm)
        )

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, step: LayerStep) -> tuple[torch.Tensor, ...]:
        """``x`` [rows, hidden] is what the layer before made; it is the embedding where ``residual`` is None."""
        if residual is None:
            residual = x
            normed = self._attention_norm(x)
        else:
            normed = self._attention_norm.add(x, residual)
        attended = self._attention(normed, step)
        if self._parallel:
            x = self._mlp(normed if self._shares_norm else self._mlp_norm(residual))
            self._backend.add(attended, residual)
            return x, residual
        if self._attention_post_norm is not None:
            attended = self._attention_post_norm(attended)
        x = self._mlp(self._mlp_norm.add(attended, residual))
        if self._mlp_post_norm is not None:
            x = self._mlp_post_norm(x)
        return x, residual


class DecoderModel:
    """Embedding, blocks, final norm and head.

    Attributes:
        linear_bytes: what a step of one row reads of weights: those of the linears, the head included.
        has_blocks: whether some of these have weights in blocks.
        windows: of its layers, ascending, 0 for the whole context.
        adapters: of its linears; None: they have none.
        config: its own, with the heads that this rank has.
        exchange: with the ranks that have the rest; None: there are none.
    """

    def __init__(self, config: ModelConfig, checkpoint: Weights, load: WeightLoader, max_positions: int) -> None:
        self.config = load.shard.local(config)
        self._backend = load.backend
        self._stream_dtype = load.dtypes.stream
        names, hidden = config.names, config.hidden_size
        self._embedding_scale = config.embedding_scale
        if config.rounds_embedding_scale:
            self._embedding_scale = torch.tensor(config.embedding_scale, dtype=load.dtypes.model).item()
        self._embedding = load.embedding(names.embedding, config.vocab_size, hidden)
        self._positions = None
        if names.positions:
            first = config.first_position
            table = load.tensor(f"{names.positions}.weight", (first + config.max_positions, hidden))
            self._positions = table[first:].contiguous()
        self._layers = []
        part = f" of shard {load.shard.rank}" if load.shard.size > 1 else ""
        progress = Progress(f"loading weights{part}", config.num_layers, "layers")
        for i in range(config.num_layers):
            self._layers.append(DecoderLayer(config, config.layers[i], load, f"{names.layers}.{i}"))
            progress.add(1)
        self._norm = load_norm(config, load, names.norm)
        self.exchange, self._vocabulary = load.shard.exchange, load.shard.vocabulary(config.vocab_size)
        # A checkpoint may leave the head out although it isn't said to be tied, or ship a copy although it is.
        tied = config.tie_embeddings or f"{names.head}.weight" not in checkpoint
        head = names.embedding if tied else names.head
        self._head = load.head(head, config.vocab_size, hidden, bias=config.head_bias)
        self._cos_sin = {
            rope: cos_sin_table(rope, config.head_dim, max_positions).to(load.device)
            for rope in {layer.rope for layer in config.layers}
        }
        self.linear_bytes, self.has_blocks = load.linear_bytes, load.has_blocks
        self.adapters = load.adapters
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
        if self._positions is not None:
            backend.add(backend.embed(self._positions, batch.positions, 1.0, self._stream_dtype), x)
        residual = None
        for index, (layer, layer_config) in enumerate(zip(self._layers, config.layers, strict=True)):
            x, residual = layer(x, residual, step(index, layer_config))
        assert residual is not None, "a model without layers"
        self._norm.add(x, residual, hidden)

    def head(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Logits of some rows.

        Args:
            hidden: [any, hidden_size], as ``body`` wrote it.
            rows: int64 [n], the rows whose next token is wanted.

        Returns:
            fp32 [n, vocab].
        """
        logits = self._backend.logits(self._head, self._backend.take_rows(hidden, rows))
        if self.config.logit_scale != 1.0:
            self._backend.scale(logits, self.config.logit_scale)
        if self.config.logit_softcap:
            self._backend.soft_cap(logits, self.config.logit_softcap)
        return logits if self.exchange is None else self.exchange.gather(logits, self._vocabulary)
