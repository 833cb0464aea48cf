"""Pages of the KV cache that left memory, kept on disk, and brought back: the prefix cache's second half.

Copies between pages and host memory run in the order of the steps, so that one that is under way is neither seen half
done nor written over. Files are written by a thread: the engine's never waits for the disk, and where the thread is
behind, pages are dropped. Files are read when a sequence is admitted.
"""

import logging
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..kernels import Backend, Event
from .messages import DiskStats
from .models.kv_cache import KVCache
from .page_files import PageFiles

_STAGED_BYTES = 64 << 20  # of pages on their way to disk, at most
_LEAST_STAGED = 4  # pages, however large
_NICENESS = 10  # of the thread: steps come first

logger = logging.getLogger(__name__)


class _Copied(NamedTuple):
    """A page's content on its way to disk."""

    key: bytes
    content: torch.Tensor  # uint8 [page_bytes], in host memory
    event: Event  # once it is over, ``content`` is there


@dataclass
class _Counts:
    saved: int = 0
    dropped: int = 0
    failed: int = 0
    loaded: int = 0


class PageStore:
    """Saves and loads pages. All methods are for the engine's thread."""

    def __init__(self, files: PageFiles, cache: KVCache, backend: Backend) -> None:
        self._files = files
        self._cache = cache
        self._backend = backend
        self._pinned = cache.device.type == "cuda"
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
        for _ in range(max(_STAGED_BYTES // cache.page_bytes, _LEAST_STAGED)):
            self._free.put(torch.empty(0, dtype=torch.uint8))  # memory comes when it is needed first
        self._copying: list[_Copied] = []  # since the last step was read
        self._copied: list[_Copied] = []  # before the step that is under way was launched
        self._counts = _Counts()
        trash = cache.boxes(0)
        backend.copy_boxes(trash, trash.clone())  # compiled now, not when there is something to copy
        backend.Event().wait()
        self._jobs: queue.SimpleQueue[_Copied | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="prefix cache", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> DiskStats:
        """Counters."""
        counts = self._counts
        return DiskStats(counts.saved, counts.dropped, counts.failed, counts.loaded)

    def has(self, key: bytes) -> bool:
        """Whether ``load`` may find the page."""
        return self._files.has(key)

    def load(self, key: bytes, page: int) -> bool:
        """Bring a page back from disk, before the next step. False: it isn't there, or is no good."""
        content = torch.empty(self._cache.page_bytes, dtype=torch.uint8)
        if not self._files.read(key, content.numpy().data):
            return False
        target = self._cache.boxes(page)
        self._backend.copy_boxes(target, content.view(target.shape))
        self._counts.loaded += 1
        return True

    def save(self, page: int, key: bytes) -> None:
        """Keep what the page holds, which is about to be something else's."""
        try:
            content = self._free.get_nowait()
        except queue.Empty:
            self._counts.dropped += 1
            return
        if content.numel() == 0:
            content = torch.empty(self._cache.page_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        source = self._cache.boxes(page)
        self._backend.copy_boxes(content.view(source.shape), source)
        self._copying.append(_Copied(key, content, self._backend.Event()))

    def step_read(self) -> None:
        """The tokens of a step were read: what was copied before the one after it was launched is there."""
        for copied in self._copied:
            copied.event.wait()
            self._jobs.put(copied)
        self._copied, self._copying = self._copying, []

    def close(self, pages: list[tuple[int, bytes]], seconds: float) -> None:
        """Save these pages, too, in their order, as many as that time allows, and end."""
        end = time.monotonic() + seconds
        for _ in range(2):
            self.step_read()
        self._jobs.put(None)
        self._thread.join(seconds)
        content = torch.empty(self._cache.page_bytes, dtype=torch.uint8)
        for page, key in pages:
            if time.monotonic() > end:
                logger.warning("prefix cache: not all of it could be saved within %g s", seconds)
                break
            if not self._files.keeps(key):
                source = self._cache.boxes(page)
                self._backend.copy_boxes(content.view(source.shape), source)
                self._backend.Event().wait()
                self._keep(key, content)

    def _write(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the niceness of the process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (copied := self._jobs.get()) is not None:
            self._keep(copied.key, copied.content)
            self._free.put(copied.content)

    def _keep(self, key: bytes, content: torch.Tensor) -> None:
        if self._files.write(key, content.numpy().data):
            self._counts.saved += 1
        else:
            self._counts.failed += 1
