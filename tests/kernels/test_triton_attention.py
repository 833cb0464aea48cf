"""Paged attention in the interpreter by the GPU command's check, over the shapes that break kernels."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from headwater.bench.device.gpu import check_attention
from headwater.bench.device.gpu.check_attention import Heads, attend, attended, make_batch, make_cache
from headwater.bench.device.gpu.interpreted import dots_in_float64, dots_in_steps
from headwater.bench.device.gpu.setup import Setup, compare
from headwater.kernels.step_batch import StepBatch, TableChanges
from headwater.kernels.triton import attention_plan, new_plan, paged_attention, plan_attention, rope_and_write
from headwater.kernels.triton.attention_plan import SPLIT_ROWS
from headwater.kernels.triton.splits import LONG_TOKENS, SHORT_TOKENS, max_splits, split_of, split_start
from headwater.kernels.triton.tiles import TILES


def setup(dtype: torch.dtype = torch.float32) -> Setup:
    return Setup(torch.device("cpu"), dtype, tiny=True)


@pytest.fixture(autouse=True)
def exact_dots():
    with dots_in_float64():
        yield


@pytest.fixture(autouse=True)
def both_roles(monkeypatch):
    """Whatever the size of a step: a real one has more rows than the interpreter has time for."""
    monkeypatch.setattr(attention_plan, "_SMALL_STEP_ROWS", 0)


def check(rows, lengths, heads, dtype=torch.float32):
    comparison = check_attention.check(setup(dtype), heads, rows, lengths)
    assert comparison.holds, comparison


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
    # A first token, a chunk, decodes at a page's end and just past it, a short tail, sequences without rows.
    rows, lengths = [1, 40, 1, 1, 2, 0, 0], [1, 100, 64, 65, 300, 0, 0]
    check(rows, lengths, Heads(q_heads, kv_heads, head_dim), dtype)


@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_page_sizes(page_size):
    check([1, 70, 1], [page_size, 70, 257 + page_size], Heads(4, 2, 64, page_size))


def test_lengths_around_the_cuts_between_splits():
    lengths = [255, 256, 257, 513, 4097]
    check([1, 1, 1, 2, 1], lengths, Heads(2, 1, 64))


@pytest.mark.parametrize(("q_heads", "kv_heads"), [(2, 1), (5, 1), (6, 1), (16, 1)])
def test_group_sizes(q_heads, kv_heads):
    check([1, 9, 4], [33, 40, 300], Heads(q_heads, kv_heads, 64))


@pytest.mark.parametrize("head_dim", [96, 256])
def test_head_dims(head_dim):
    check([1, 20], [65, 40], Heads(4, 2, head_dim), torch.float16)


@pytest.mark.parametrize("window", [1, 16, 100, 300])
def test_sliding_window(window):
    check([1, 1, 40, 90, 3], [50, 700, 400, 90, 600], Heads(4, 2, 64, window=window))


def test_logit_softcap():
    check([1, 40], [300, 100], Heads(4, 2, 64, softcap=0.7))


@pytest.mark.parametrize("window", [0, 100])
def test_sinks_join_the_sum_of_split_and_whole_sequences(window):
    check([1, 40, 2, 1], [50, 90, 600, 300], Heads(4, 2, 64, window=window, has_sinks=True))


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
    assert few.rows <= many.rows


@pytest.mark.parametrize(("window", "small_step_rows"), [(0, 0), (100, 0), (0, 64)])
def test_a_row_does_not_depend_on_its_batch_or_on_chunking(monkeypatch, window, small_step_rows):
    """Bit for bit: alone, in a batch, as one chunk, as chunks of any size down to single rows, split and not."""
    monkeypatch.setattr(attention_plan, "_SMALL_STEP_ROWS", small_step_rows)
    length, other = 420, 300
    heads = Heads(3, 1, 64, window=window, has_sinks=True)
    cache = make_cache(setup(), heads, [length, other])
    q = torch.randn(length, 3, 64)
    with dots_in_steps():
        whole = attend(q, cache, make_batch(setup(), cache, [length, 0], [length, other]), heads)
        at = 0
        for size in (1, 5, 31, 33, 200, 2, 101, 46, 1):
            end = at + size
            batch = make_batch(setup(), cache, [size, 7], [end, other])
            chunk = attend(torch.cat([q[at:end], torch.randn(7, 3, 64)]), cache, batch, heads)[:size]
            assert torch.equal(chunk, whole[at:end]), f"chunk {at}..{end}"
            at = end
    assert at == length


def test_a_short_chunk_after_a_long_text_is_divided_among_many_programs():
    heads, tokens = Heads(32, 8, 128), 32768
    for rows in (1, 17, 60, SPLIT_ROWS):
        batch = StepBatch(
            torch.arange(tokens - rows, tokens, dtype=torch.int32),
            torch.zeros(rows, dtype=torch.int64),
            torch.tensor([0, rows], dtype=torch.int32),
            torch.tensor([tokens], dtype=torch.int32),
            torch.zeros(1, tokens // 16, dtype=torch.int32),
        )
        plan = new_plan(rows, 1, tokens, heads.q_heads, heads.kv_heads, heads.head_dim, 16, torch.device("cpu"))
        plan_attention(batch, heads.q_heads, heads.kv_heads, heads.head_dim, 16, reuse=plan)
        few, many, _ = plan.counts.tolist()
        units = torch.cat([plan.few_units[:few], plan.many_units[:many]])
        assert (units[:, 5] - units[:, 4]).max() <= LONG_TOKENS, rows


def test_a_result_does_not_change_when_there_is_no_room_for_splits():
    heads, lengths, rows = Heads(4, 2, 64, has_sinks=True), [700, 700], [1, 3]
    cache = make_cache(setup(), heads, lengths)
    batch = make_batch(setup(), cache, rows, lengths)
    q = torch.randn(4, 4, 64)
    plan = new_plan(4, 2, 700, 4, 2, 64, 16, q.device)
    plan.partial_out, plan.partial_stats = plan.partial_out[:5], plan.partial_stats[:5]
    with dots_in_steps():
        assert torch.equal(attend(q, cache, batch, heads, plan), attend(q, cache, batch, heads))


def test_a_page_table_takes_what_has_changed_and_its_rows_may_be_anywhere():
    heads, lengths, rows = Heads(4, 2, 64), [300, 40], [1, 3]
    cache = make_cache(setup(), heads, lengths)
    batch = make_batch(setup(), cache, rows, lengths)
    q = torch.randn(4, 4, 64)
    want, pages = attend(q, cache, batch, heads), batch.page_table
    at = torch.tensor([3, 1], dtype=torch.int32)  # of rows that the sequences have
    table = torch.zeros(5, pages.shape[1], dtype=torch.int32)
    table[3, :10] = pages[0, :10]
    width = table.shape[1]
    places = torch.cat([torch.arange(3 * width + 10, 4 * width), torch.arange(width, width + 3)])
    changes = TableChanges(at, torch.full((64,), -1, dtype=torch.int32), torch.zeros(64, dtype=torch.int32))
    changes.places[: len(places)] = places
    changes.pages[: len(places)] = torch.cat([pages[0, 10:], pages[1, :3]])
    assert torch.equal(attend(q, cache, replace(batch, page_table=table, changes=changes), heads), want)
    assert torch.equal(table[3], pages[0])
    assert torch.equal(table[1, :3], pages[1, :3])


def test_pages_beyond_two_to_the_31_values_are_written_and_read():
    """As an 80 GB card has them. Memory that nobody touches costs nothing."""
    pages, page, dim = (1 << 21) + 8, 16, 64
    k_pages, v_pages = torch.empty(2, pages, 1, page, dim, dtype=torch.float8_e4m3fn)
    assert k_pages.numel() > 1 << 31
    qkv, cos_sin = torch.randn(3, 3 * dim), torch.randn(8, dim)
    results = []
    for at in (1, pages - 1):
        batch = StepBatch(
            torch.arange(3, dtype=torch.int32), torch.arange(3) + at * page, torch.tensor([0, 3], dtype=torch.int32),
            torch.tensor([3], dtype=torch.int32), torch.tensor([[at]], dtype=torch.int32),
        )  # fmt: skip
        q = rope_and_write(qkv, cos_sin, batch, k_pages, v_pages, dtype=torch.float32)
        plan = plan_attention(batch, 1, 1, dim, page)
        results.append(paged_attention(q, k_pages, v_pages, batch, plan, dim**-0.5))
    assert torch.equal(k_pages[1, :, :3].float(), k_pages[-1, :, :3].float())
    assert torch.equal(*results)
    assert results[0].isfinite().all()


def test_a_plan_can_be_refilled_and_rows_beyond_the_batch_are_padding():
    heads = Heads(4, 2, 64)
    cache = make_cache(setup(), heads, [500, 40])
    plan = new_plan(64, 4, 1024, 4, 2, 64, 16, torch.device("cpu"))
    for rows, lengths in (([20, 40], [500, 40]), ([1, 1], [499, 39]), ([0, 3], [0, 12])):
        q = torch.randn(sum(rows) + 3, 4, 64)
        batch = make_batch(setup(), cache, rows, lengths)
        got = attend(q, cache, batch, heads, plan)[: sum(rows)]
        assert compare("", got, attended(q, cache, rows, lengths, heads)).holds
