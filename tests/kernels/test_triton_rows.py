"""Triton's small ops around the layers in the interpreter, against the cpu backend's and by hand."""

import pytest
import torch

from headwater.kernels import Unsupported, load_backend
from headwater.kernels.triton import new_plan, tiles

cpu, triton = load_backend("cpu"), load_backend("triton")
both = pytest.mark.parametrize("backend", [cpu, triton], ids=["cpu", "triton"])


@both
@pytest.mark.parametrize("scale", [1.0, 22.5])
def test_embed_and_take_rows(backend, scale):
    table, ids = torch.randn(7, 33), torch.tensor([6, 0, 6, 3])
    assert torch.equal(backend.embed(table, ids, scale, torch.float32), table[ids] * scale)
    assert torch.equal(backend.take_rows(table, ids), table[ids])


@both
def test_take_tokens_leaves_what_has_no_source(backend):
    token_ids = torch.arange(2000) + 100
    sources = torch.full((2000,), -1)
    sources[[0, 5, 1500, 1999]] = torch.tensor([2, 0, 2, 1])
    sampled = torch.tensor([7, 8, 9])
    want = torch.where(sources >= 0, sampled[sources.clamp(min=0)], token_ids)
    backend.take_tokens(token_ids, sources, sampled)
    assert torch.equal(token_ids, want)


@both
def test_count_tokens_counts_each_row_that_is_asked_for(backend):
    counts = torch.zeros(3, 40, dtype=torch.int32)
    rows = torch.tensor([2, -1, 0, 2, 2], dtype=torch.int32)
    backend.count_tokens(counts, rows, torch.tensor([39, 5, 5, 39, 0]))
    want = torch.zeros_like(counts)
    want[2, 39], want[0, 5], want[2, 0] = 2, 1, 1
    assert torch.equal(counts, want)


@both
@pytest.mark.parametrize("width", [1, 1025])
def test_soft_cap(backend, width):
    x = torch.randn(3, width) * 60
    x[0, 0] = -1e30
    want = 30.0 * torch.tanh(x.double() / 30.0)
    backend.soft_cap(x, 30.0)
    torch.testing.assert_close(x.double(), want, rtol=2e-6, atol=1e-5)


def test_a_program_runs_over_the_rows_that_its_graph_would_have():
    calls: list[int] = []
    program = triton.capture(calls.append, (8, 1, 4))
    for rows in (1, 2, 4, 5, 8, 9):
        program.launch(rows)
    assert calls == [1, 4, 4, 8, 8, 9]


def test_a_group_that_no_tile_holds_is_refused():
    with pytest.raises(Unsupported, match="65 query heads share a KV head: attention packs up to 64"):
        new_plan(4, 2, 64, 130, 2, 64, 16, torch.device("cpu"))


@pytest.mark.parametrize("head_dim", [32, 257])
def test_a_head_that_no_tile_holds_is_refused(head_dim):
    with pytest.raises(Unsupported, match=f"heads of {head_dim} dims: attention has tiles for 33 to 256"):
        new_plan(4, 2, 64, 4, 2, head_dim, 16, torch.device("cpu"))


def test_fp8_pages_are_refused_where_they_cannot_be_converted(monkeypatch):
    pages = torch.zeros(2, 1, 16, 64, dtype=torch.float8_e4m3fn)
    tiles.check_pages(pages)
    monkeypatch.setattr(tiles, "gpu_of", lambda _: tiles.Gpu(80, 108, converts_fp8=False))
    with pytest.raises(Unsupported, match=r"fp8 pages need compute capability 8\.9"):
        tiles.check_pages(pages)
