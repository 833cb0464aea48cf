"""Who owns which page. No tensors here: ids in, ids out."""

from collections import deque


class OutOfPages(Exception):
    """The cache is full; the scheduler preempts a sequence and tries again."""


class PagePool:
    """Fixed set of page ids. Page 0 is the trash page and never handed out."""

    def __init__(self, num_pages: int) -> None:
        """``num_pages`` counts the trash page."""
        self._free = deque(range(1, num_pages))
        self._used: set[int] = set()
        self.num_usable = num_pages - 1

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Hand out ``count`` pages, all or none. Raises OutOfPages."""
        if count > len(self._free):
            raise OutOfPages(f"{count} pages wanted, {len(self._free)} free")
        pages = [self._free.popleft() for _ in range(count)]
        self._used.update(pages)
        return pages

    def release(self, pages: list[int]) -> None:
        """Give pages back."""
        for page in pages:
            assert page in self._used, f"page {page} released by one who doesn't own it"
            self._used.remove(page)
            self._free.append(page)

    def check(self, owned: list[list[int]]) -> None:
        """Assert that the sequences' pages and the free ones are all pages, each once."""
        claimed = [page for pages in owned for page in pages]
        assert len(claimed) == len(set(claimed)), "a page has two owners"
        assert set(claimed) == self._used, "a page leaked"
        assert len(self._used) + len(self._free) == self.num_usable, "a page vanished"
