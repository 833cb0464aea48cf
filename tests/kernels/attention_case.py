"""Sequences over pages on any backend, and the plain formula in float64."""

import math
from dataclasses import dataclass

import torch

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
    k_scale: float = 1.0
    v_scale: float = 1.0


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
    ) -> None:
        self.kv_heads, self.group, self.head_dim, self.page_size = 2, group, head_dim, page_size
        self.backend = backend
        self.options = options
        self.norm = QkNorm(torch.randn(head_dim), torch.randn(head_dim), 1e-6, 1.0) if options.qk_norm else None
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
        q = self.backend.rope_and_write(qkv, self.cos_sin, batch, self.k_pages, self.v_pages, self.norm, *scales)
        q_heads = self.group * self.kv_heads
        longest = max(100, *map(len, self.qkv))
        plan = self.backend.new_plan(
            len(qkv), len(ranges), longest, q_heads, self.kv_heads, self.head_dim, self.page_size, qkv.device,
            self.options.window,
        )  # fmt: skip
        self.backend.fill_plan(plan, batch)
        scale = self.head_dim**-0.5
        out = self.backend.paged_attention(
            q, self.k_pages, self.v_pages, batch, plan, scale, self.options.softcap, *scales
        )
        return list(out.split(counts))

    def oracle(self, sequence: int) -> torch.Tensor:
        options = self.options
        rows = self.qkv[sequence].double()
        length, half = len(rows), self.head_dim // 2
        q, k, v = rows.view(length, -1, self.head_dim).split(
            [self.group * self.kv_heads, self.kv_heads, self.kv_heads], dim=1
        )
        cos, sin = self.cos_sin[:length, None].double().split(half, dim=2)

        def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (weight.double() + 1.0)

        def rope(x: torch.Tensor) -> torch.Tensor:
            a, b = x.split(half, dim=2)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)

        def stored(x: torch.Tensor, scale: float) -> torch.Tensor:
            if self.k_pages.dtype != torch.float8_e4m3fn:
                return x
            return (x / scale).clamp(-448, 448).float().to(torch.float8_e4m3fn).double() * scale

        if self.norm is not None:
            q, k = norm(q, self.norm.q_weight), norm(k, self.norm.k_weight)
        k, v = stored(rope(k), options.k_scale), stored(v, options.v_scale)
        k, v = (x.repeat_interleave(self.group, dim=1).transpose(0, 1) for x in (k, v))
        scores = rope(q).transpose(0, 1) @ k.transpose(1, 2) * self.head_dim**-0.5
        if options.softcap:
            scores = options.softcap * torch.tanh(scores / options.softcap)
        visible = torch.ones(length, length).tril().bool()
        if options.window:
            visible &= torch.ones(length, length).triu(1 - options.window).bool()
        scores = scores.masked_fill(~visible, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
