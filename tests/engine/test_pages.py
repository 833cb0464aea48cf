"""The page pool: references, and what happens to pages whose content is known."""

import pytest

from headwater.engine.pages import OutOfPages, PagePool
from headwater.engine.prefix_cache import page_key


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
