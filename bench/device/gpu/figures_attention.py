"""Times of attention: its roles over many sizes, the merge and the plan by themselves."""

from collections.abc import Callable
from functools import partial

import torch
import triton

from ....kernels import StepBatch
from ....kernels.triton import AttentionPlan, attention, attention_plan, new_plan, paged_attention
from .check_attention import Heads
from .setup import Figure, Results, Setup
from .timing import copies_beyond_l2, seconds_per_call

LLAMA = Heads.of("llama-3.1-8b")
OTHERS = {
    "qwen2.5-7b": Heads.of("qwen2.5-7b"),
    "smollm2-135m": Heads.of("smollm2-135m"),
    "gemma-3-4b": Heads.of("gemma-3-4b")._replace(window=0),
    "gemma-3-4b, window 1024": Heads.of("gemma-3-4b"),
}
# (sequences, tokens of each): 16 MB to 1 GB of KV for Llama.
DECODES = ((1, 4096), (1, 16384), (4, 4096), (16, 1024), (64, 1024), (64, 4096), (256, 1024), (16, 16384), (8, 32768))
QUICK_DECODES = ((1, 16384), (64, 1024), (64, 4096))
CHUNKS = ((2048, 2048), (8192, 8192), (16384, 16384), (2048, 16384))  # (rows, tokens): the rows are the last ones
QUICK_CHUNKS = ((2048, 2048), (16384, 16384))


def make_step(
    setup: Setup, heads: Heads, sequences: int, rows: int, tokens: int, first_page: int
) -> tuple[StepBatch, AttentionPlan]:
    """A batch of equal sequences, each the last ``rows`` of its tokens, in pages from ``first_page`` on."""
    pages = -(-tokens // heads.page_size)
    int32 = torch.int32
    # Shuffled: in a server that has run for a while, neighbours in a sequence are no neighbours in memory.
    generator = torch.Generator().manual_seed(first_page)
    table = torch.randperm(sequences * pages, generator=generator).to(setup.device, int32) + first_page
    batch = StepBatch(
        positions=torch.arange(tokens - rows, tokens, dtype=int32, device=setup.device).repeat(sequences),
        slots=torch.zeros(sequences * rows, dtype=torch.int64, device=setup.device),
        query_start=torch.arange(sequences + 1, dtype=int32, device=setup.device) * rows,
        kv_lengths=torch.full((sequences,), tokens, dtype=int32, device=setup.device),
        page_table=table.view(sequences, pages),
    )
    plan = new_plan(
        sequences * rows, sequences, tokens, heads.q_heads, heads.kv_heads, heads.head_dim, heads.page_size,
        setup.device, heads.window,
    )  # fmt: skip
    attention_plan.fill_plan(plan, batch)
    return batch, plan


def time_attention(
    setup: Setup, name: str, heads: Heads, sequences: int, rows: int, tokens: int, fp8: bool = False
) -> Figure:
    """All launches of a layer's attention. Bytes: K and V of what is seen, Q and the output."""
    seen = min(tokens, heads.window + rows - 1) if heads.window else tokens
    dtype = torch.float8_e4m3fn if fp8 else setup.dtype
    kv_bytes = sequences * seen * 2 * heads.kv_heads * heads.head_dim * dtype.itemsize
    traffic = kv_bytes + 2 * sequences * rows * heads.q_heads * heads.head_dim * setup.dtype.itemsize
    pages = sequences * -(-tokens // heads.page_size)
    # A window leaves most of the pages untouched: bytes count what is read, the cache holds all.
    sets = copies_beyond_l2(setup, kv_bytes)
    shape = (sets * pages + 1, heads.kv_heads, heads.page_size, heads.head_dim)
    k_pages, v_pages = (torch.empty(shape, dtype=torch.bfloat16, device=setup.device) for _ in range(2))
    for pages_of in (k_pages, v_pages):
        pages_of.normal_()
    k_pages, v_pages = k_pages.to(dtype), v_pages.to(dtype)
    q = torch.randn(sequences * rows, heads.q_heads, heads.head_dim, dtype=setup.dtype, device=setup.device)
    steps = [make_step(setup, heads, sequences, rows, tokens, 1 + i * pages) for i in range(sets)]
    calls = [_attention_call(q, k_pages, v_pages, batch, plan) for batch, plan in steps]
    pairs = _pairs(rows, tokens, heads.window) * sequences
    return Figure(name, seconds_per_call(setup, calls), traffic, 4 * pairs * heads.q_heads * heads.head_dim)


def _attention_call(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, batch: StepBatch, plan: AttentionPlan
) -> Callable[[], object]:
    return lambda: paged_attention(q, k_pages, v_pages, batch, plan, q.shape[2] ** -0.5)


def _pairs(rows: int, tokens: int, window: int) -> int:
    """Positions that the rows see, added up."""
    seen = range(tokens - rows + 1, tokens + 1)
    return sum(min(each, window) for each in seen) if window else sum(seen)


def figures_of_decode_attention(setup: Setup) -> Results:
    """Few rows: one row of each sequence."""
    for sequences, tokens in QUICK_DECODES if setup.quick else DECODES:
        megabytes = sequences * tokens * 2 * LLAMA.kv_heads * LLAMA.head_dim * 2 >> 20
        name = f"few rows, {sequences} x {tokens} tokens, {megabytes} MiB of KV"
        yield time_attention(setup, name, LLAMA, sequences, 1, tokens)
    if setup.converts_fp8:
        yield time_attention(setup, "few rows, 64 x 4096 tokens, fp8 KV", LLAMA, 64, 1, 4096, fp8=True)
    for model, heads in OTHERS.items():
        if not setup.quick:
            yield time_attention(setup, f"few rows, 64 x 4096 tokens, {model}", heads, 64, 1, 4096)
    yield time_attention(setup, "few rows, 64 x 4096 tokens, 4 rows each", LLAMA, 64, 4, 4096)


def figures_of_prefill_attention(setup: Setup) -> Results:
    """Many rows: chunks of one prompt, causal."""
    for rows, tokens in QUICK_CHUNKS if setup.quick else CHUNKS:
        yield time_attention(setup, f"many rows, {rows} of {tokens} tokens", LLAMA, 1, rows, tokens)
    for model, heads in OTHERS.items():
        if not setup.quick:
            yield time_attention(setup, f"many rows, 8192 of 8192 tokens, {model}", heads, 1, 8192, 8192)


def figures_of_merge_and_plan(setup: Setup) -> Results:
    """The launches beside attention proper, at a decode step."""
    sequences, tokens = 64, 4096
    steps = [make_step(setup, LLAMA, sequences, 1, tokens, 1) for _ in range(8)]
    out = torch.empty(sequences, LLAMA.q_heads, LLAMA.head_dim, dtype=setup.dtype, device=setup.device)
    for _, plan in steps:
        plan.partial_out.normal_()
        plan.partial_stats.fill_(1.0)

    def merge(plan: AttentionPlan) -> None:
        attention._merge_kernel[(plan.multiprocessors * attention._MERGE_BLOCKS,)](
            plan.partial_out, plan.partial_stats, plan.merges, plan.counts, plan.partial_stats, out, 1.0, 1.0,
            Q_HEADS=LLAMA.q_heads, HEAD_DIM=LLAMA.head_dim, DIM=triton.next_power_of_2(LLAMA.head_dim), SINKS=False,
            num_warps=attention._MERGE_WARPS,
        )  # fmt: skip

    partial_bytes = sequences * (tokens // 256) * LLAMA.q_heads * (LLAMA.head_dim + 2) * 4
    seconds = seconds_per_call(setup, [partial(merge, plan) for _, plan in steps])
    yield Figure(f"merge, {sequences} x {tokens} tokens", seconds, partial_bytes + out.nbytes)
    batch, plan = steps[0]
    seconds = seconds_per_call(setup, [lambda: attention_plan.fill_plan(plan, batch)])
    yield Figure(f"plan, {sequences} sequences", seconds)
