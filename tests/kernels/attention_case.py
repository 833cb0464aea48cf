"""Sequences over pages on any backend, and what the formulas in float64 make of them."""

import math
from dataclasses import dataclass

import torch

from headwater.bench.device.gpu.formulas import attention, normalised, rotated
from headwater.kernels import Backend, QkNorm, StepBatch


def assert_close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert torch.linalg.norm(got.double() - want) <= tolerance * torch.linalg.norm(want)


@dataclass(frozen=True)
class Options:
    """What attention may be asked for beside the plain thing."""

    window: int = 0
    softcap: float = 0.0
    qk_norm: bool = False
    norm_of_all_heads: bool = False
    own_norms: bool = False  # LayerNorm, with weights of each head
    norm_after: bool = False  # the rotation
    k_scale: float = 1.0
    v_scale: float = 1.0
    sinks: bool = False


class Case:
    """Sequences of random projected rows over randomly scattered pages, and what attention should make of them."""

    def __init__(
        self,
        backend: Backend,
        dtype: torch.dtype,
        group: int,
        head_dim: int,
        page_size: int,
        lengths: list[int],
        options: Options,
        q_dtype: torch.dtype | None = None,
    ) -> None:
        """``q_dtype``: beside fp8 pages."""
        self.kv_heads, self.group, self.head_dim, self.page_size = 2, group, head_dim, page_size
        self.backend, self.q_dtype = backend, q_dtype
        self.options = options
        self.sinks = torch.randn(self.kv_heads * group) * 4 if options.sinks else None
        self.norm = None
        whole, own = options.norm_of_all_heads, options.own_norms
        if options.qk_norm or whole or own or options.norm_after:
            heads = (self.kv_heads * group, self.kv_heads) if whole or own else (1, 1)
            self.norm = QkNorm(
                *(torch.randn(count * head_dim) for count in heads), 1e-6, 1.0, whole, "layer" if own else "rms",
                options.norm_after,
            )  # fmt: skip
        width = (group + 2) * self.kv_heads * head_dim
        self.qkv = [torch.randn(length, width) for length in lengths]
        pages = [math.ceil(length / page_size) for length in lengths]
        order = (torch.randperm(sum(pages)) + 1).split(pages)
        self.page_table = torch.zeros(len(lengths) + 1, max(pages), dtype=torch.int32)
        for sequence, ids in enumerate(order):
            self.page_table[sequence, : len(ids)] = ids
        self.k_pages = torch.zeros(sum(pages) + 1, self.kv_heads, page_size, head_dim).to(dtype)
        self.v_pages = self.k_pages.clone()
        angles = torch.arange(max(lengths))[:, None] * torch.rand(head_dim // 2)
        self.cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)

    def step(self, ranges: list[tuple[int, int]]) -> list[torch.Tensor]:
        """One step over rows [start, end) of each sequence. Returns the attention's rows of each."""
        positions = torch.cat([torch.arange(start, end) for start, end in ranges])
        slots = torch.cat(
            [
                self.page_table[sequence][torch.arange(start, end) // self.page_size].long() * self.page_size
                + torch.arange(start, end) % self.page_size
                for sequence, (start, end) in enumerate(ranges)
            ]
        )
        counts = [end - start for start, end in ranges]
        batch = StepBatch(
            positions=positions.int(),
            slots=slots,
            # One sequence more than there are: static buffers have room left at their end.
            query_start=torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist(), sum(counts)], dtype=torch.int32),
            kv_lengths=torch.tensor([*(end for _, end in ranges), 0], dtype=torch.int32),
            page_table=self.page_table,
        )
        qkv = torch.cat([rows[start:end] for rows, (start, end) in zip(self.qkv, ranges, strict=True)])
        scales = (self.options.k_scale, self.options.v_scale)
        q = self.backend.rope_and_write(
            qkv, self.cos_sin, batch, self.k_pages, self.v_pages, self.norm, *scales, self.q_dtype
        )
        q_heads = self.group * self.kv_heads
        longest = max(100, *map(len, self.qkv))
        plan = self.backend.new_plan(
            len(qkv), len(ranges), longest, q_heads, self.kv_heads, self.head_dim, self.page_size, qkv.device,
            self.options.window,
        )  # fmt: skip
        self.backend.fill_plan(plan, batch)
        scale = self.head_dim**-0.5
        out = self.backend.paged_attention(
            q, self.k_pages, self.v_pages, batch, plan, scale, self.options.softcap, *scales, self.sinks
        )
        return list(out.split(counts))

    def normalised(self, *heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Q and K, [rows, heads, head_dim] both."""
        if self.norm is None:
            return heads
        parts = zip(heads, (self.norm.q_weight, self.norm.k_weight), strict=True)
        if self.options.own_norms:
            return tuple(
                normalised(x - x.mean(-1, keepdim=True), w.view(-1, self.head_dim), 1e-6, 1.0) for x, w in parts
            )
        return tuple(normalised(x.reshape(len(x), -1, w.numel()), w, 1e-6, 1.0).view_as(x) for x, w in parts)

    def oracle(self, sequence: int) -> torch.Tensor:
        """All rows of a sequence in float64, [tokens, q_heads * head_dim]."""
        options, rows = self.options, self.qkv[sequence]
        q, k, v = (
            rows.double()
            .view(len(rows), -1, self.head_dim)
            .split([self.group * self.kv_heads, self.kv_heads, self.kv_heads], dim=1)
        )
        if not options.norm_after:
            q, k = self.normalised(q, k)
        q, k = (rotated(x, self.cos_sin, torch.arange(len(rows))) for x in (q, k))
        if options.norm_after:
            q, k = self.normalised(q, k)
        if self.k_pages.dtype == torch.float8_e4m3fn:
            k, v = (
                (x / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale
                for x, scale in ((k, options.k_scale), (v, options.v_scale))
            )
        return attention(q, k, v, options.window, options.softcap, self.sinks)
