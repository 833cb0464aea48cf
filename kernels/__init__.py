"""The kernel interface: what a backend offers to the runtime, and the one place where a backend is chosen.

Two backends implement it, each one module with these functions: ``cpu`` (Numba) and ``triton``. Rows, pages and slots
are the only things known here; requests and models are not.

KV layout of both backends: K and V apart, per layer ``[pages, kv_heads, page_size, head_dim]``. Page 0 is the trash
page: padding rows write there and nothing reads it. The order of values inside one (page, head) box is the backend's.

Three dtypes: weights, pages and the rows that enter a linear have ``storage_dtype``; what leaves a linear, and the
residual stream, has ``stream_dtype``. On the GPU both are the model's dtype. On the CPU, sums stay in fp32 between the
linears: it costs nothing there and takes most of bf16's rounding away.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, cast

import torch

BackendName = Literal["cpu", "triton"]


@dataclass
class StepBatch:
    """The rows of one step, as every layer's kernels see them. Rows of a sequence are consecutive.

    Sequences past the last real one have no rows (``query_start`` stays flat) and ``kv_lengths`` 0, so static
    buffers of the largest size can be used for every step.
    """

    positions: torch.Tensor  # int32 [rows], token position of the row in its sequence
    slots: torch.Tensor  # int64 [rows], where the row's K and V go; padding rows point into page 0
    query_start: torch.Tensor  # int32 [sequences + 1], rows of sequence i: query_start[i] .. query_start[i + 1]
    kv_lengths: torch.Tensor  # int32 [sequences], tokens with KV once this step's rows are written
    page_table: torch.Tensor  # int32 [sequences, max_pages]


@dataclass
class SamplingBatch:
    """How each row of a logits matrix is to be sampled; every row may differ."""

    greedy: torch.Tensor  # bool [rows]: no noise, and temperature is ignored
    temperature: torch.Tensor  # fp32 [rows], > 0
    top_k: torch.Tensor  # int32 [rows], 0: off; ties at the edge are kept
    top_p: torch.Tensor  # fp32 [rows], 1: off
    repetition_penalty: torch.Tensor  # fp32 [rows], 1: off
    seeds: torch.Tensor  # int64 [rows], the bits of a u64
    positions: torch.Tensor  # int64 [rows], index in its sequence of the token that is drawn
    seen: torch.Tensor  # int32 [rows], row of ``token_counts`` that holds the sequence's tokens; -1: no penalty wanted
    token_counts: torch.Tensor  # int32 [penalised sequences, vocab], occurrences in prompt and output


@dataclass
class Sampled:
    """What the sampler returns for each row."""

    token_ids: torch.Tensor  # int64 [rows]
    logprobs: torch.Tensor  # fp32 [rows], natural log, of the processed distribution restricted to the allowed set


class Linear(Protocol):
    """A weight in the form that its backend reads fastest."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in] in the weight's dtype -> [rows, out] in the stream's; sums are fp32."""
        ...


class AttentionPlan(Protocol):
    """How a backend divides the attention work of one step; made once, used by all layers."""


class Backend(Protocol):
    """One implementation of every op. All tensors are contiguous."""

    def storage_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What weights and pages of a model of that dtype are kept in."""
        ...

    def stream_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the residual stream of a model of that dtype is kept in."""
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden] in the dtype of ``weight``."""
        ...

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalise ``x + residual``; ``residual`` becomes the sum. Returns the dtype of ``weight``."""
        ...

    def rope_and_write(
        self,
        qkv: torch.Tensor,  # [rows, (q_heads + 2 * kv_heads) * head_dim]
        cos_sin: torch.Tensor,  # fp32 [max_positions, head_dim]: cosines of the half dims, then sines
        batch: StepBatch,
        k_pages: torch.Tensor,  # [pages, kv_heads, page_size, head_dim], written
        v_pages: torch.Tensor,  # like k_pages
    ) -> torch.Tensor:
        """Rotate Q and K (NeoX halves), write K and V to their slots. Returns Q, [rows, q_heads, head_dim], in the pages' dtype."""
        ...

    def plan_attention(
        self, batch: StepBatch, q_heads: int, kv_heads: int, head_dim: int, page_size: int
    ) -> AttentionPlan:
        """Divide the work of a step."""
        ...

    def paged_attention(
        self,
        q: torch.Tensor,  # [rows, q_heads, head_dim]
        k_pages: torch.Tensor,
        v_pages: torch.Tensor,
        batch: StepBatch,
        plan: AttentionPlan,
        scale: float,
    ) -> torch.Tensor:
        """Causal attention of each row over the pages of its sequence. Returns [rows, q_heads * head_dim]."""
        ...

    def silu_and_mul(self, gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[rows, 2 * width], gate first -> silu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
        ...

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        """Prepare a weight [out, in] (and bias [out]) for this backend. The weight may be dropped afterwards."""
        ...

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """Draw one token per row of fp32 logits [rows, vocab], which may be overwritten."""
        ...


def load_backend(name: BackendName) -> Backend:
    """The backend of that name; importing it compiles nothing yet."""
    return cast(Backend, import_module(f".{name}", __package__))
