"""The page pool: references, and what happens to pages whose content is known."""

import numpy as np
import pytest
import torch

from headwater.engine.chunk import Chunk
from headwater.engine.limits import Limits
from headwater.engine.messages import SamplingParams
from headwater.engine.page_tables import PageTables
from headwater.engine.pages import OutOfPages, PagePool
from headwater.engine.prefix_cache import page_key
from headwater.engine.sequence import Sequence, SequenceKey
from headwater.engine.step_buffers import StepBuffers


def test_pages_are_handed_out_all_or_none() -> None:
    pool = PagePool(5)
    first = pool.take(3)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 free"):
        pool.take(2)
    assert pool.num_free == 1
    assert 0 not in first + pool.take(1), "the trash page is nobody's"
    pool.release(first)
    assert pool.num_free == 3
    with pytest.raises(AssertionError, match="released by one who doesn't own it"):
        pool.release(first[:1])


def test_a_shared_page_is_free_when_its_last_owner_leaves() -> None:
    pool = PagePool(3)
    [page] = pool.take(1)
    pool.register(page, b"key")
    pool.share([page])
    pool.check([[page], [page]])
    pool.release([page])
    assert (pool.num_free, pool.num_cached) == (1, 0)
    pool.release([page])
    assert (pool.num_free, pool.num_cached) == (2, 1)
    pool.check([])


def test_a_free_page_with_known_content_comes_back_to_life() -> None:
    pool = PagePool(3)
    [page] = pool.take(1)
    pool.register(page, b"key")
    pool.release([page])
    assert pool.count_free([page]) == 1
    assert pool.find(b"key") == page
    pool.share([page])
    assert (pool.num_free, pool.num_cached, pool.count_free([page])) == (1, 0, 0)
    pool.check([[page]])


def test_known_pages_are_lost_last_and_the_longest_unused_first() -> None:
    pool = PagePool(8)
    a, b = pool.take(2), pool.take(3)
    for name, pages in (("a", a), ("b", b)):
        for index, page in enumerate(pages):
            pool.register(page, f"{name}{index}".encode())
    pool.release(a)
    pool.release(b)
    assert pool.num_cached == 5
    assert set(pool.take(2)).isdisjoint(a + b), "empty pages are taken first"
    pool.share([a[0]])
    pool.release([a[0]])  # used again: now the newest
    # The tail of a text goes before its head.
    assert [pool.take(1)[0] for _ in range(5)] == [a[1], b[2], b[1], b[0], a[0]]
    assert pool.find(b"a0") is None
    assert pool.num_free == 0


def test_of_equal_pages_the_first_is_found() -> None:
    pool = PagePool(3)
    first, second = pool.take(2)
    pool.register(first, b"key")
    pool.register(second, b"key")
    assert pool.find(b"key") == first
    pool.release([first, second])
    assert (pool.num_free, pool.num_cached) == (2, 1)
    pool.check([])


def test_a_key_names_the_whole_text_up_to_the_pages_end() -> None:
    texts = ([[1, 2], [3, 4]], [[1, 3], [3, 4]], [[3, 4]], [[3, 4], [3, 4]], [[1, 2, 3, 4]], [[1, 2], [4, 3]])
    keys = set()
    for pages in texts:
        key = b""
        for tokens in pages:
            key = page_key(key, tokens)
        keys.add(key)
    assert len(keys) == len(texts)


def test_what_has_changed_of_page_tables_adds_up_to_them() -> None:
    tables = PageTables(3, 8)
    device = np.zeros(24, np.int32)
    for slot, computed, pages in (
        (0, 0, [5, 6]),
        (2, 0, [7]),
        (0, 1, [5, 6, 8]),
        (0, 2, [5, 6, 9]),  # the last page was taken back, and another has come
        (2, 0, [7]),
    ):
        tables.update(slot, computed, pages)
        assert len(tables.places) <= 2
        device[tables.places] = tables.pages
        tables.forget_changes()
        assert (device == tables.entries.ravel()).all()
    tables.start(0)
    tables.update(0, 0, [1, 2, 3, 4])
    assert (tables.places, tables.pages) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_more_changes_than_a_step_brings_are_brought_as_whole_tables() -> None:
    device = torch.device("cpu")
    limits = Limits(
        page_size=1, num_pages=3000, max_sequences=2, max_rows=8, max_total_tokens=1500, max_samples=2, graph_rows=(),
        reasons=(),
    )  # fmt: skip
    buffers = StepBuffers(limits, 2, device, keeps_page_tables=True)
    sequence = Sequence(SequenceKey(0, 0), [0] * 1401, 1401, SamplingParams(4, greedy=True), 0.0)
    sequence.computed, sequence.pages, sequence.slot = 1400, list(range(1, 1402)), 1
    copied: list[int] = []

    def copy(target: torch.Tensor, source: torch.Tensor) -> None:
        copied.append(source.nbytes)
        target.copy_(source)

    buffers.start(sequence)
    buffers.stage([Chunk(sequence, 1400, 1)])
    buffers.upload(copy)
    assert copied[1:] == [2 * 1500 * 4]
    sequence.pages.append(9)
    sequence.tokens.append(0)
    buffers.stage([Chunk(sequence, 1401, 1)])
    buffers.upload(copy)
    assert len(copied) == 3, "the second step brings what is new"
    batch = buffers.batch(1)
    assert batch.page_table[1, :1401].tolist() == sequence.pages[:1401]
    assert batch.changes is not None
    assert [int(each[0]) for each in batch.changes] == [1, 1500 + 1401, 9]
