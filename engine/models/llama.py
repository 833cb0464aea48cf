"""Llama: pre-norm blocks of grouped-query attention with RoPE and a SwiGLU MLP.

Touvron et al. 2023 (arXiv 2302.13971).
"""

import torch

from ...kernels import StepBatch
from ..checkpoint.safetensors_dir import Checkpoint
from .config import ModelConfig
from .kv_cache import KVCache
from .rope import cos_sin_table
from .weights import WeightLoader


class LlamaLayer:
    """One block. Rows in, rows out; ``residual`` is carried beside them and added inside the next norm."""

    def __init__(self, config: ModelConfig, load: WeightLoader, prefix: str) -> None:
        hidden, head_dim = config.hidden_size, config.head_dim
        q, kv = config.num_q_heads * head_dim, config.num_kv_heads * head_dim
        self._backend = load.backend
        self._eps = config.rms_norm_eps
        self._scale = head_dim**-0.5
        self._dtype = load.dtypes.rows
        self._input_norm = load.vector(f"{prefix}.input_layernorm.weight", hidden)
        self._qkv = load.linear(
            [(f"{prefix}.self_attn.{part}_proj", width) for part, width in (("q", q), ("k", kv), ("v", kv))],
            hidden,
            config.attention_bias,
        )
        self._output = load.linear([(f"{prefix}.self_attn.o_proj", hidden)], q, config.attention_bias)
        self._post_norm = load.vector(f"{prefix}.post_attention_layernorm.weight", hidden)
        width = config.intermediate_size
        self._gate_up = load.linear(
            [(f"{prefix}.mlp.gate_proj", width), (f"{prefix}.mlp.up_proj", width)], hidden, config.mlp_bias
        )
        self._down = load.linear([(f"{prefix}.mlp.down_proj", hidden)], width, config.mlp_bias)

    def input_norm(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """The block's first norm: of ``x`` alone in the first layer, else of the sum, kept in ``residual``."""
        if residual is None:
            return self._backend.rms_norm(x, self._input_norm, self._eps)
        return self._backend.add_rms_norm(x, residual, self._input_norm, self._eps)

    def __call__(
        self,
        normed: torch.Tensor,  # [rows, hidden]
        residual: torch.Tensor,  # [rows, hidden], becomes the sum
        batch: StepBatch,
        plan: object,
        cos_sin: torch.Tensor,
        k_pages: torch.Tensor,
        v_pages: torch.Tensor,
    ) -> torch.Tensor:
        backend = self._backend
        q = backend.rope_and_write(self._qkv(normed), cos_sin, batch, k_pages, v_pages)
        attended = backend.paged_attention(q, k_pages, v_pages, batch, plan, self._scale)
        normed = backend.add_rms_norm(self._output(attended), residual, self._post_norm, self._eps)
        return self._down(backend.silu_and_mul(self._gate_up(normed), self._dtype))


class LlamaModel:
    """Embedding, blocks, final norm and head."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, load: WeightLoader, max_positions: int) -> None:
        self.config = config
        self._backend = load.backend
        self._stream_dtype = load.dtypes.stream
        self._embedding = load.tensor("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
        self._layers = [LlamaLayer(config, load, f"model.layers.{i}") for i in range(config.num_layers)]
        self._norm = load.vector("model.norm.weight", config.hidden_size)
        # A checkpoint may leave the head out although it isn't said to be tied, or ship a copy although it is.
        tied = config.tie_embeddings or "lm_head.weight" not in checkpoint
        head = "model.embed_tokens" if tied else "lm_head"
        self._head = load.linear([(head, config.vocab_size)], config.hidden_size, bias=False)
        self._cos_sin = cos_sin_table(config.rope, config.head_dim, max_positions).to(load.device)

    def forward(
        self, token_ids: torch.Tensor, batch: StepBatch, cache: KVCache, last_rows: torch.Tensor
    ) -> torch.Tensor:
        """One step.

        Args:
            token_ids: int64 [rows].
            batch: positions, slots and sequences of the rows.
            cache: read and written.
            last_rows: int64 [n], the rows whose next token is wanted.

        Returns:
            Logits of those rows, fp32 [n, vocab].
        """
        backend, config = self._backend, self.config
        plan = backend.plan_attention(batch, config.num_q_heads, config.num_kv_heads, config.head_dim, cache.page_size)
        x = self._embedding[token_ids].to(self._stream_dtype)
        residual = x
        for index, layer in enumerate(self._layers):
            normed = layer.input_norm(x, None if index == 0 else residual)
            x = layer(normed, residual, batch, plan, self._cos_sin, cache.k_pages[index], cache.v_pages[index])
        x, residual = x[last_rows], residual[last_rows]
        return self._head(backend.add_rms_norm(x, residual, self._norm, config.rms_norm_eps)).float()
