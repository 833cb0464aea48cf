"""Who owns which page, and which pages hold a known piece of text. No tensors here: ids in, ids out."""

from collections import Counter, OrderedDict
from typing import Protocol


class OutOfPages(Exception):
    """The cache is full; the scheduler preempts a sequence and tries again."""


class Keeper(Protocol):
    """Who may want what a page holds."""

    def save(self, page: int, key: bytes) -> None:
        """It is about to be something else's."""
        ...


class PagePool:
    """Fixed set of page ids with reference counts. Page 0 is the trash page and never handed out.

    A page is owned by one or more sequences, or free. A free page is empty, or keeps content that was registered
    under a key: ``find`` brings that back to life until the page is taken for something else, oldest first.
    """

    def __init__(self, num_pages: int) -> None:
        """``num_pages`` counts the trash page."""
        self.num_usable = num_pages - 1
        self._owners = [0] * num_pages
        self._empty = list(range(self.num_usable, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # free pages with a key, the next to be lost first
        self._page_of: dict[bytes, int] = {}
        self._key_of: list[bytes | None] = [None] * num_pages
        self.keepers: list[Keeper] = []  # told of each page with known content that is taken for something else

    @property
    def num_free(self) -> int:
        """Pages that ``take`` can hand out, those with known content included."""
        return len(self._empty) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Free pages with known content."""
        return len(self._cached)

    def take(self, count: int) -> list[int]:
        """Hand out ``count`` pages, all or none. Raises OutOfPages."""
        if count > self.num_free:
            raise OutOfPages(f"{count} pages wanted, {self.num_free} free")
        pages = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def share(self, pages: list[int]) -> None:
        """Count one more owner of each page; they came from ``find``."""
        for page in pages:
            if self._owners[page] == 0:
                del self._cached[page]
            self._owners[page] += 1

    def release(self, pages: list[int]) -> None:
        """Give up one ownership of each page; the last owner frees it."""
        # Last page first: the front of a text is what others share, so it should be lost last.
        for page in reversed(pages):
            assert self._owners[page] > 0, f"page {page} released by one who doesn't own it"
            self._owners[page] -= 1
            if self._owners[page] == 0:
                if self._key_of[page] is None:
                    self._empty.append(page)
                else:
                    self._cached[page] = None

    def clear(self) -> None:
        """Forget what free pages hold."""
        for page in self._cached:
            key = self._key_of[page]
            assert key is not None
            del self._page_of[key]
            self._key_of[page] = None
        self._empty += self._cached
        self._cached.clear()

    def register(self, page: int, key: bytes) -> bool:
        """Say what an owned page holds from now on. Of pages with equal content only the first can be found.

        Returns whether it is the first.
        """
        assert self._owners[page] > 0, f"page {page} is free"
        assert self._key_of[page] is None, f"page {page} has a key already"
        if key in self._page_of:
            return False
        self._page_of[key] = page
        self._key_of[page] = key
        return True

    def find(self, key: bytes) -> int | None:
        """The page registered under ``key``, owned or free, if it wasn't taken for something else."""
        return self._page_of.get(key)

    def key_of(self, page: int) -> bytes | None:
        """What the page can be found under."""
        return self._key_of[page]

    def known(self) -> list[tuple[int, bytes]]:
        """Pages with known content and their keys: those in use, then free ones, the next to be lost last."""
        used = [page for page, owners in enumerate(self._owners) if owners]
        pages = [(page, self._key_of[page]) for page in (*used, *reversed(self._cached))]
        return [(page, key) for page, key in pages if key is not None]

    def count_free(self, pages: list[int]) -> int:
        """How many of these pages have no owner."""
        return sum(self._owners[page] == 0 for page in pages)

    def _evict(self) -> int:
        page, _ = self._cached.popitem(last=False)
        key = self._key_of[page]
        assert key is not None
        for keeper in self.keepers:
            keeper.save(page, key)
        del self._page_of[key]
        self._key_of[page] = None
        return page

    def check(self, owned: list[list[int]]) -> None:
        """Assert that references are those of the sequences' pages, and that every page is in one place."""
        claimed = Counter(page for pages in owned for page in pages)
        assert all(len(set(pages)) == len(pages) for pages in owned), "a sequence has a page twice"
        assert all(claimed[page] == count for page, count in enumerate(self._owners)), "references without an owner"
        used, empty, cached = set(claimed), set(self._empty), set(self._cached)
        assert len(self._empty) == len(empty), "a page is free twice"
        assert used | empty | cached == set(range(1, self.num_usable + 1)), "a page leaked"
        assert len(used) + len(empty) + len(cached) == self.num_usable, "a page is in two places"
        keys = {key: page for page, key in enumerate(self._key_of) if key is not None}
        assert keys == self._page_of, "keys and pages disagree"
        assert all(self._key_of[page] is None for page in empty), "an empty page has a key"
        assert all(self._key_of[page] is not None for page in cached), "a cached page has no key"
