"""Paged attention in the interpreter, against its formula in float64."""

import math
from dataclasses import dataclass

import pytest
import torch
import triton
import triton.language as tl

from headwater.kernels import StepBatch
from headwater.kernels.triton import new_plan, paged_attention, plan_attention
from headwater.kernels.triton.splits import SHORT_TOKENS, max_splits, split_of, split_start
from headwater.kernels.triton.tiles import TILES


@dataclass
class Cache:
    """Contiguous K and V of some sequences, and the same in shuffled pages."""

    k: list[torch.Tensor]  # per sequence [tokens, kv_heads, head_dim]
    v: list[torch.Tensor]
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    page_table: torch.Tensor


def make_cache(lengths, kv_heads, head_dim, page_size, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = max(2, max(-(-length // page_size) for length in lengths))
    total = sum(-(-length // page_size) for length in lengths)
    # NaN where nothing is written: a kernel that reads past a sequence's end shows it.
    k_pages = torch.full((total + 1, kv_heads, page_size, head_dim), torch.nan, dtype=dtype)
    v_pages = k_pages.clone()
    order = (torch.randperm(total, generator=generator) + 1).tolist()
    page_table = torch.full((len(lengths), width), -1, dtype=torch.int32)
    k, v = [], []
    for i, length in enumerate(lengths):
        k.append(torch.randn(length, kv_heads, head_dim, generator=generator).to(dtype))
        v.append(torch.randn(length, kv_heads, head_dim, generator=generator).to(dtype))
        for p in range(-(-length // page_size)):
            page = order.pop()
            page_table[i, p] = page
            part = slice(p * page_size, min((p + 1) * page_size, length))
            k_pages[page, :, : part.stop - part.start] = k[i][part].transpose(0, 1)
            v_pages[page, :, : part.stop - part.start] = v[i][part].transpose(0, 1)
    return Cache(k, v, k_pages, v_pages, page_table)


def make_batch(cache, rows, lengths, padding=0):
    """Rows of sequence i are the last ``rows[i]`` of ``lengths[i]`` tokens; slots are not used by attention."""
    positions = [length - n + j for n, length in zip(rows, lengths, strict=True) for j in range(n)] + [0] * padding
    start = torch.tensor([0, *rows]).cumsum(0).to(torch.int32)
    return StepBatch(
        positions=torch.tensor(positions, dtype=torch.int32),
        slots=torch.zeros(len(positions), dtype=torch.int64),
        query_start=start,
        kv_lengths=torch.tensor(lengths, dtype=torch.int32),
        page_table=cache.page_table,
    )


def oracle(q, cache, rows, lengths, scale, window=0, softcap=0.0):
    """Row by row in float64."""
    group = q.shape[1] // cache.k_pages.shape[1]
    out, at = [], 0
    for i, (n, length) in enumerate(zip(rows, lengths, strict=True)):
        for j in range(n):
            position = length - n + j
            first = max(0, position - window + 1) if window else 0
            k = cache.k[i][first : position + 1].double().repeat_interleave(group, 1)
            v = cache.v[i][first : position + 1].double().repeat_interleave(group, 1)
            logits = torch.einsum("hd,thd->ht", q[at].double(), k) * scale
            if softcap:
                logits = softcap * torch.tanh(logits / softcap)
            out.append(torch.einsum("ht,thd->hd", logits.softmax(-1), v).flatten())
            at += 1
    return torch.stack(out)


def attend(q, cache, batch, scale, window=0, softcap=0.0, plan=None):
    kv_heads, page_size = cache.k_pages.shape[1:3]
    plan = plan_attention(batch, q.shape[1], kv_heads, q.shape[2], page_size, window, reuse=plan)
    return paged_attention(q, cache.k_pages, cache.v_pages, batch, plan, scale, softcap)


TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}


def check(rows, lengths, q_heads, kv_heads, head_dim, page_size, dtype, padding=0, window=0, softcap=0.0):
    cache = make_cache(lengths, kv_heads, head_dim, page_size, dtype)
    q = torch.randn(sum(rows) + padding, q_heads, head_dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    scale = 1 / math.sqrt(head_dim)
    got = attend(q, cache, make_batch(cache, rows, lengths, padding), scale, window, softcap)[: sum(rows)]
    want = oracle(q, cache, rows, lengths, scale, window, softcap)
    assert got.dtype == dtype
    assert torch.linalg.norm(got.double() - want) <= TOLERANCE[dtype] * torch.linalg.norm(want)


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim", "dtype"),
    [
        (3, 3, 64, torch.float32),
        (9, 3, 64, torch.float16),
        (7, 1, 64, torch.float32),
        (9, 3, 80, torch.float32),
        (7, 1, 80, torch.float16),
        (2, 2, 128, torch.float16),
        (7, 1, 128, torch.float32),
    ],
)
def test_mixed_batch(q_heads, kv_heads, head_dim, dtype):
    # A first token, a chunk, decodes at a page's end and just past it, a short tail, sequences without rows, padding.
    rows, lengths = [1, 40, 1, 1, 2, 0, 0], [1, 100, 64, 65, 300, 0, 0]
    check(rows, lengths, q_heads, kv_heads, head_dim, 16, dtype, padding=3)


@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_page_sizes(page_size):
    check([1, 70, 1], [page_size, 70, 257 + page_size], 4, 2, 64, page_size, torch.float32)


def test_lengths_around_the_cuts_between_splits():
    lengths = [255, 256, 257, 513, 4097]
    check([1, 1, 1, 2, 1], lengths, 2, 1, 64, 16, torch.float32)


@pytest.mark.parametrize(("q_heads", "kv_heads"), [(2, 1), (5, 1), (6, 1), (16, 1)])
def test_group_sizes(q_heads, kv_heads):
    check([1, 9, 4], [33, 40, 300], q_heads, kv_heads, 64, 16, torch.float32)


@pytest.mark.parametrize("head_dim", [96, 256])
def test_head_dims(head_dim):
    check([1, 20], [65, 40], 4, 2, head_dim, 16, torch.float16)


@pytest.mark.parametrize("window", [1, 16, 100, 300])
def test_sliding_window(window):
    check([1, 1, 40, 90, 3], [50, 700, 400, 90, 600], 4, 2, 64, 16, torch.float32, window=window)


def test_logit_softcap():
    check([1, 40], [300, 100], 4, 2, 64, 16, torch.float32, softcap=0.7)


def test_fp8_pages():
    rows, lengths, k_scale, v_scale = [1, 40], [300, 100], 0.02, 0.01
    cache = make_cache(lengths, 2, 64, 16, torch.float32)
    cache.k_pages = (cache.k_pages.nan_to_num() / k_scale).to(torch.float8_e4m3fn)
    cache.v_pages = (cache.v_pages.nan_to_num() / v_scale).to(torch.float8_e4m3fn)
    cache.k = [(k / k_scale).to(torch.float8_e4m3fn).float() * k_scale for k in cache.k]
    cache.v = [(v / v_scale).to(torch.float8_e4m3fn).float() * v_scale for v in cache.v]
    q = torch.randn(sum(rows), 4, 64)
    batch = make_batch(cache, rows, lengths)
    plan = plan_attention(batch, 4, 2, 64, 16)
    got = paged_attention(q, cache.k_pages, cache.v_pages, batch, plan, 0.125, k_scale=k_scale, v_scale=v_scale)
    want = oracle(q, cache, rows, lengths, 0.125)
    assert torch.linalg.norm(got.double() - want) <= 2e-6 * torch.linalg.norm(want)


@triton.jit
def splits_kernel(split_ptr, start_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(split_ptr + index, split_of(index))
    tl.store(start_ptr + index, split_start(index))


def test_splits_cover_all_positions_in_order():
    size = 1 << 16
    split, start = torch.empty(2, size, dtype=torch.int32)
    splits_kernel[(1,)](split, start, SIZE=size)
    lengths = start.diff()[: split[-1]]
    assert set(lengths.tolist()) == {256, 512, 1024}
    position = torch.arange(size)
    assert (start[split.long()] <= position).all()
    assert (position < start[split.long() + 1]).all()
    assert [max_splits(tokens) for tokens in (1, 256, 4097, 16385, size)] == [1, 1, 17, 41, int(split[-1]) + 1]


@pytest.mark.parametrize("key", TILES)
def test_tiles_fit_each_other(key):
    few, many = TILES[key]
    assert few.positions == many.positions  # a row is rounded alike in both roles
    assert SHORT_TOKENS % few.positions == 0  # no tile crosses a cut between splits
    assert few.rows < many.rows


def whole_numbers(*shape):
    """NumPy, which the interpreter uses, rounds q . k by the number of rows; whole numbers leave nothing to round."""
    return torch.randint(-3, 4, shape).float()


@pytest.mark.parametrize("window", [0, 100])
def test_a_row_does_not_depend_on_its_batch_or_on_chunking(window):
    """Bit for bit: alone, in a batch, as one chunk, as chunks of any size down to single rows."""
    length, other = 420, 300
    cache = make_cache([length, other], 1, 64, 16, torch.float32)
    cache.k_pages = whole_numbers(*cache.k_pages.shape)
    q = whole_numbers(length, 3, 64)
    whole = attend(q, cache, make_batch(cache, [length, 0], [length, other]), 0.02, window)
    at = 0
    for size in (1, 5, 31, 33, 200, 2, 101, 46, 1):
        end = at + size
        batch = make_batch(cache, [size, 7], [end, other])
        chunk = attend(torch.cat([q[at:end], whole_numbers(7, 3, 64)]), cache, batch, 0.02, window)[:size]
        assert torch.equal(chunk, whole[at:end]), f"chunk {at}..{end}"
        at = end
    assert at == length


def test_a_result_does_not_change_when_there_is_no_room_for_splits():
    lengths, rows = [700, 700], [1, 3]
    cache = make_cache(lengths, 2, 64, 16, torch.float32)
    cache.k_pages = whole_numbers(*cache.k_pages.shape)
    batch = make_batch(cache, rows, lengths)
    q = whole_numbers(4, 4, 64)
    split = attend(q, cache, batch, 0.02)
    plan = new_plan(4, 2, 700, 4, 2, 64, 16, q.device)
    plan.partial_out, plan.partial_stats = plan.partial_out[:5], plan.partial_stats[:5]
    assert torch.equal(attend(q, cache, batch, 0.02, plan=plan), split)


def test_a_plan_can_be_refilled():
    cache = make_cache([500, 40], 2, 64, 16, torch.float32)
    plan = new_plan(64, 4, 1024, 4, 2, 64, 16, torch.device("cpu"))
    for rows, lengths in (([20, 40], [500, 40]), ([1, 1], [499, 39]), ([0, 3], [0, 12])):
        q = torch.randn(sum(rows), 4, 64)
        batch = make_batch(cache, rows, lengths)
        want = oracle(q, cache, rows, lengths, 0.125)
        torch.testing.assert_close(attend(q, cache, batch, 0.125, plan=plan).double(), want, atol=2e-6, rtol=1e-5)
