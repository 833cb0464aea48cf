"""Which pages of a sequence were computed before, by whomever: whole pages, named by all the tokens up to their end.

A page's key is a hash of its parent's key and its own tokens, so equal keys mean equal texts from position 0 on: 128
bits of BLAKE2b, which nobody makes collide.
"""

from array import array
from hashlib import blake2b
from typing import Protocol

from .kv_events import KVEvents
from .pages import PagePool
from .sequence import Sequence


def page_key(parent: bytes, tokens: list[int]) -> bytes:
    """Key of the page with ``tokens`` whose predecessor has the key ``parent``; the first page's is its sequence's."""
    return blake2b(parent + array("I", tokens).tobytes(), digest_size=16).digest()


def root_key(adapter_key: bytes, cache_salt: str) -> bytes:
    """Parent of the first page's key: pages of another adapter hold other numbers, those of another salt are hidden.

    ``adapter_key`` is empty for none, as is ``cache_salt``.
    """
    if not cache_salt:
        return adapter_key
    return blake2b(adapter_key + blake2b(cache_salt.encode(), digest_size=32).digest(), digest_size=32).digest()


class PageStore(Protocol):
    """Where pages are that left memory."""

    def has(self, key: bytes) -> bool:
        """Whether ``load`` may find the page."""
        ...

    def load(self, key: bytes, page: int) -> bool:
        """Fill a page with what it holds under ``key``. False: it isn't there, or is no good."""
        ...

    def save(self, page: int, key: bytes) -> None:
        """Keep what the page holds, which is about to be something else's."""
        ...


class PrefixCache:
    """Finds pages for sequences that start, and registers the pages that running ones fill."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._store: PageStore | None = None
        self._events: KVEvents | None = None

    def keep(self, store: PageStore) -> None:
        """From now on, pages that leave memory go there, and come back."""
        self._store = store
        self._pool.keepers.append(store)

    def publish(self, events: KVEvents) -> None:
        """From now on, tell of pages that come and go. Nobody owns a page; those of the warm-up are forgotten."""
        self._pool.clear()
        events.cleared()
        self._events = events
        self._pool.keepers.append(events)

    def find(self, sequence: Sequence) -> list[int]:
        """The longest known prefix, in order. At least one token stays out of it: the one that is sampled from.

        So a sequence never writes to a page that it found: its first own row lies behind them.
        """
        pages: list[int] = []
        if sequence.sampling.prompt_logprobs:
            return pages  # every row of the prompt is wanted
        for index in range((sequence.total - 1) // self._page_size):
            page = self._pool.find(self._key(sequence, index))
            if page is None:
                break
            pages.append(page)
        return pages

    def load(self, sequence: Sequence) -> None:
        """Bring back the stored pages behind those that ``find`` gave the sequence; there is room for its prompt."""
        store = self._store
        if store is None or sequence.sampling.prompt_logprobs:
            return
        for index in range(len(sequence.pages), (sequence.total - 1) // self._page_size):
            key = self._key(sequence, index)
            if not store.has(key):
                break
            (page,) = self._pool.take(1)
            if not store.load(key, page):
                self._pool.release([page])
                break
            new = self._pool.register(page, key)
            sequence.pages.append(page)
            if new and self._events is not None:
                self._events.stored(sequence, range(index, index + 1))

    def register(self, sequence: Sequence, computed: int) -> None:
        """Make the pages known that are full once ``computed`` tokens are, as far as those tokens are known."""
        if computed // self._page_size <= sequence.registered_pages:
            return  # as in most steps
        full = min(computed, len(sequence.tokens)) // self._page_size
        first_new = full  # of a run of pages that nobody had before
        for index in range(sequence.registered_pages, full):
            new = self._pool.register(sequence.pages[index], self._key(sequence, index))
            sequence.registered_pages = index + 1
            if self._events is None:
                continue
            if new:
                first_new = min(first_new, index)
            if first_new < full and (not new or index + 1 == full):
                self._events.stored(sequence, range(first_new, index + new))
                first_new = full

    def check(self, sequence: Sequence) -> None:
        """Assert that the sequence's pages hold its tokens, as far as they have been registered."""
        key = sequence.root_key
        for index in range(sequence.registered_pages):
            start = index * self._page_size
            key = page_key(key, sequence.tokens[start : start + self._page_size])
            assert sequence.page_keys[index] == key, "a page key isn't that of its tokens"
            page, own = self._pool.find(key), sequence.pages[index]
            # Another page may have come first with the same text.
            assert page == own or self._pool.key_of(own) is None, f"page {own} has another text's key"

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """Key of the sequence's page ``index``, whose tokens are all known. Keys outlive a preemption."""
        keys = sequence.page_keys
        while len(keys) <= index:
            start = len(keys) * self._page_size
            keys.append(
                page_key(keys[-1] if keys else sequence.root_key, sequence.tokens[start : start + self._page_size])
            )
        return keys[index]
