"""Paged attention against its formula in float64, and bit for bit against itself in other batches."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ....kernels import StepBatch
from ....kernels.triton import AttentionPlan, new_plan, paged_attention, plan_attention
from ..shapes import MODELS
from .formulas import attention
from .setup import Comparison, Results, Setup, compare, equal, need_fp8


class Heads(NamedTuple):
    """Shape of an attention layer."""

    q_heads: int
    kv_heads: int
    head_dim: int
    page_size: int = 16
    window: int = 0
    softcap: float = 0.0
    has_sinks: bool = False

    @classmethod
    def of(cls, name: str) -> "Heads":
        """Of a model in ``shapes.MODELS``."""
        model = next(model for model in MODELS if model.name == name)
        return cls(
            model.q_heads, model.kv_heads, model.head_dim,
            window=model.window, softcap=model.softcap, has_sinks=model.sinks,
        )  # fmt: skip

    def sinks(self, device: torch.device) -> torch.Tensor | None:
        """A logit of each head, from far below a row's to far above."""
        return torch.linspace(-4.0, 8.0, self.q_heads, device=device) if self.has_sinks else None


@dataclass
class Cache:
    """K and V of some sequences in shuffled pages; NaN where nothing was written."""

    k: list[torch.Tensor]  # per sequence [tokens, kv_heads, head_dim]
    v: list[torch.Tensor]
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    page_table: torch.Tensor


def make_cache(setup: Setup, heads: Heads, lengths: list[int]) -> Cache:
    """Random K and V."""
    page_size = heads.page_size
    counts = [-(-length // page_size) for length in lengths]
    shape = (sum(counts) + 1, heads.kv_heads, page_size, heads.head_dim)
    k_pages = torch.full(shape, torch.nan, dtype=setup.dtype, device=setup.device)
    v_pages = k_pages.clone()
    shuffled = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)) + 1
    page_table = torch.full((len(lengths), max(counts)), -1, dtype=torch.int32)
    k: list[torch.Tensor] = []
    v: list[torch.Tensor] = []
    for i, (length, pages) in enumerate(zip(lengths, shuffled.split(counts), strict=True)):
        page_table[i, : len(pages)] = pages
        slots = (pages[:, None] * page_size + torch.arange(page_size)).flatten()[:length].to(setup.device)
        for part, target, seed in zip((k, v), (k_pages, v_pages), (2 * i, 2 * i + 1), strict=True):
            part.append(setup.randn(length, heads.kv_heads, heads.head_dim, seed=seed))
            target[slots // page_size, :, slots % page_size] = part[-1]
    return Cache(k, v, k_pages, v_pages, page_table.to(setup.device))


def make_batch(setup: Setup, cache: Cache, rows: list[int], lengths: list[int]) -> StepBatch:
    """Rows of sequence i are the last ``rows[i]`` of ``lengths[i]`` tokens; attention does not read slots."""
    positions = [length - n + j for n, length in zip(rows, lengths, strict=True) for j in range(n)]
    return StepBatch(
        positions=setup.int32(positions),
        slots=torch.zeros(len(positions), dtype=torch.int64, device=setup.device),
        query_start=setup.int32(list(itertools.accumulate(rows, initial=0))),
        kv_lengths=setup.int32(lengths),
        page_table=cache.page_table,
    )


def attend(
    q: torch.Tensor, cache: Cache, batch: StepBatch, heads: Heads, plan: AttentionPlan | None = None
) -> torch.Tensor:
    """The kernels' result, [rows, q_heads * head_dim]; ``plan`` is filled and used if there is one."""
    shape = (heads.q_heads, heads.kv_heads, heads.head_dim, heads.page_size)
    plan = plan_attention(batch, *shape, heads.window, reuse=plan)
    scale, sinks = heads.head_dim**-0.5, heads.sinks(q.device)
    return paged_attention(q, cache.k_pages, cache.v_pages, batch, plan, scale, heads.softcap, sinks=sinks)


def attended(q: torch.Tensor, cache: Cache, rows: list[int], lengths: list[int], heads: Heads) -> torch.Tensor:
    """The formula in float64, all sequences' rows one after the other."""
    out = []
    for i, (part, length) in enumerate(zip(q[: sum(rows)].split(rows), lengths, strict=True)):
        k, v = cache.k[i][:length], cache.v[i][:length]
        out.append(attention(part, k, v, heads.window, heads.softcap, heads.sinks(q.device)))
    return torch.cat(out)


def check(setup: Setup, heads: Heads, rows: list[int], lengths: list[int]) -> Comparison:
    """One batch against the formula."""
    cache = make_cache(setup, heads, lengths)
    q = setup.randn(sum(rows), heads.q_heads, heads.head_dim, seed=99)
    got = attend(q, cache, make_batch(setup, cache, rows, lengths), heads)
    name = f"attention {heads.q_heads}/{heads.kv_heads} x {heads.head_dim}, page {heads.page_size}"
    name += f", window {heads.window}" if heads.window else ""
    name += f", softcap {heads.softcap}" if heads.softcap else ""
    name += ", sinks" if heads.has_sinks else ""
    return compare(f"{name}, rows {rows}, lengths {lengths}"[:120], got, attended(q, cache, rows, lengths, heads))


def check_attention(setup: Setup) -> Results:
    """The shapes of the models that are measured: decodes, chunks and short tails in one batch."""
    if setup.tiny:
        yield check(setup, Heads(6, 2, 64), [1, 9, 2], [33, 9, 300])
        yield check(setup, Heads(7, 1, 80, 32, 20), [1, 4], [65, 40])
        return
    rows, lengths = [1, 300, 1, 1, 2, 1, 33], [1, 900, 64, 65, 300, 4097, 33]
    for name in ("llama-3.1-8b", "qwen2.5-7b", "gemma-3-4b", "smollm2-135m", "gpt-oss-20b"):
        yield check(setup, Heads.of(name), rows, lengths)
    yield check(setup, Heads(32, 8, 128), [1] * 5, [255, 256, 257, 4096, 17000])
    yield check(setup, Heads(32, 8, 128), [1] * 130, [500 + i for i in range(130)])
    yield check(setup, Heads(32, 8, 128), [2048], [2048])


def check_odd_attention(setup: Setup) -> Results:
    """Group sizes, head dims, page sizes, windows and soft caps that models have and that break kernels."""
    if setup.tiny:
        yield check(setup, Heads(4, 2, 64, softcap=0.7, has_sinks=True), [1, 5], [70, 20])
        return
    rows, lengths = [1, 70, 1, 3], [50, 90, 700, 600]
    for heads in (
        *(Heads(group, 1, 64) for group in (1, 5, 6, 16)),
        *(Heads(7, 1, dim) for dim in (80, 96)),
        *(Heads(4, 2, 128, page) for page in (32, 64)),
        *(Heads(4, 2, 128, window=window) for window in (1, 16, 300)),
        Heads(4, 2, 256, softcap=5.0),
        Heads(64, 8, 64, has_sinks=True),
    ):
        yield check(setup, heads, rows, lengths)


def check_fp8_attention(setup: Setup) -> Results:
    """A cache in fp8: what is read is the rounded value times the scale."""
    need_fp8(setup)
    heads, rows, lengths = Heads(4, 2, 64 if setup.tiny else 128), [1, 40, 1], [300, 100, 31]
    if setup.tiny:
        rows, lengths = [1, 3], [70, 20]
    cache = make_cache(setup, heads, lengths)
    q = setup.randn(sum(rows), heads.q_heads, heads.head_dim, seed=99)
    k_scale, v_scale = 0.02, 0.01
    pages = [(x.float() / s).to(torch.float8_e4m3fn) for x, s in ((cache.k_pages, k_scale), (cache.v_pages, v_scale))]
    cache.k = [(x.float() / k_scale).to(torch.float8_e4m3fn).double() * k_scale for x in cache.k]
    cache.v = [(x.float() / v_scale).to(torch.float8_e4m3fn).double() * v_scale for x in cache.v]
    batch = make_batch(setup, cache, rows, lengths)
    plan = plan_attention(batch, heads.q_heads, heads.kv_heads, heads.head_dim, heads.page_size)
    scale = heads.head_dim**-0.5
    got = paged_attention(q, pages[0], pages[1], batch, plan, scale, k_scale=k_scale, v_scale=v_scale)
    yield compare("attention over fp8 pages", got, attended(q, cache, rows, lengths, heads))


def check_invariance(setup: Setup) -> Results:
    """A row's bits do not depend on its batch, on how its prompt was cut, or on room for splits."""
    heads = Heads(4, 1, 64) if setup.tiny else Heads(32, 8, 128)
    lengths = [40, 300] if setup.tiny else [700, 33, 4097, 1, 9000, 256, 1500]
    cache = make_cache(setup, heads, lengths)
    q = setup.randn(len(lengths), heads.q_heads, heads.head_dim, seed=99)
    together = attend(q, cache, make_batch(setup, cache, [1] * len(lengths), lengths), heads)
    for i, length in enumerate(lengths):
        only = Cache(cache.k, cache.v, cache.k_pages, cache.v_pages, cache.page_table[i : i + 1].contiguous())
        alone = attend(q[i : i + 1], only, make_batch(setup, only, [1], [length]), heads)
        yield equal(f"invariance: {length} tokens, alone and in a batch", alone, together[i : i + 1])

    # Chunks of both roles, split and not.
    length, cuts = (60, [0, 20, 21, 60]) if setup.tiny else (2000, [0, 1, 34, 38, 500, 560, 1001, 1999, 2000])
    cache = make_cache(setup, heads, [length])
    q = setup.randn(length, heads.q_heads, heads.head_dim, seed=98)
    whole = attend(q, cache, make_batch(setup, cache, [length], [length]), heads)
    for start, end in itertools.pairwise(cuts):
        chunk = attend(q[start:end], cache, make_batch(setup, cache, [end - start], [end]), heads)
        yield equal(f"invariance: rows {start} to {end} as a chunk and in one prompt", chunk, whole[start:end])

    rows, lengths = [1, 2], [300, 300] if setup.tiny else [3000, 3000]
    cache = make_cache(setup, heads, lengths)
    batch = make_batch(setup, cache, rows, lengths)
    q = setup.randn(sum(rows), heads.q_heads, heads.head_dim, seed=97)
    plan = new_plan(
        sum(rows), len(rows), max(lengths), heads.q_heads, heads.kv_heads, heads.head_dim, heads.page_size, q.device
    )
    split = attend(q, cache, batch, heads)
    plan.partial_out, plan.partial_stats = plan.partial_out[:1], plan.partial_stats[:1]
    crowded = attend(q, cache, batch, heads, plan)
    yield equal("invariance: with and without room for splits", crowded, split)
