"""Which adapters are loaded, under which names and in which slots: the one place that decides it.

An adapter is read and packed by a thread beside the steps, and enters its slot between two of them. One that is
unloaded takes no new sequence and leaves its slot after its last one.
"""

import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..kernels.low_rank import LowRank
from .adapter_records import Record, read_records
from .checkpoint.errors import ModelError
from .checkpoint.peft import read_adapter
from .messages import Adapter, AdapterAnswer, AdapterError, AdapterList
from .models.adapters import Adapters
from .shards.ranks import Ranks

# How long sequences of an engine that died may take to come back to an adapter that was being unloaded there.
_RETURN_S = 60.0
_NICENESS = 10  # of the thread: steps come first
_KEY_BYTES = 16

Updates = Mapping[str, LowRank]

logger = logging.getLogger(__name__)


class Requester(NamedTuple):
    """Who asked: a worker's connection, and its number for what it asked."""

    connection: int
    request_id: int


@dataclass
class _Entry:
    adapter: Adapter
    slot: int
    key: bytes  # names its numbers in the prefix cache: another adapter of the same name has another one
    retired: bool = False
    kept_until: float = 0.0  # time.monotonic(); if retired


class _Packed(NamedTuple):
    """An adapter that was read."""

    key: bytes
    parts: list[Any]


@dataclass
class _Loading:
    adapter: Adapter
    slot: int
    packed: "Future[_Packed]"
    requester: Requester


class AdapterSet:
    """The adapters of one engine. Not for several threads, but for ``wake``."""

    def __init__(self, adapters: Adapters, ranks: Ranks | None = None) -> None:
        """``ranks``: others, that have the same adapters in the same slots."""
        self._adapters, self._ranks = adapters, ranks
        self._entries: dict[str, _Entry] = {}
        self._loading: dict[str, _Loading] = {}
        self._free = list(range(adapters.slots, 0, -1))
        self.wake: Callable[[], None] = lambda: None  # called by another thread when an adapter is ready

    @property
    def listed(self) -> AdapterList:
        """Those that new sequences may name."""
        open_entries = [entry.adapter for entry in self._entries.values() if not entry.retired]
        return AdapterList(tuple(open_entries), self._adapters.slots)

    @property
    def records(self) -> list[Record]:
        """For the engine that follows this one."""
        return [Record(entry.adapter, entry.retired) for entry in self._entries.values()]

    @property
    def retired_slots(self) -> Collection[int]:
        """Slots that are free as soon as no sequence has them."""
        now = time.monotonic()
        return [e.slot for e in self._entries.values() if e.retired and e.kept_until <= now]

    def find(self, name: str, *, replayed: bool) -> tuple[int, bytes] | None:
        """Slot and key of an adapter. One that is being unloaded is there for ``replayed`` sequences only."""
        entry = self._entries.get(name)
        if entry is None or (entry.retired and not replayed):
            return None
        return entry.slot, entry.key

    def load_now(self, adapter: Adapter, *, retired: bool = False) -> None:
        """At start, before anybody waits for a step. Raises ModelError."""
        if adapter.name in self._entries:
            raise ModelError(f"adapter {adapter.name}: the name is given twice.")
        if not self._free:
            raise ModelError(f"adapter {adapter.name}: there is room for {self._adapters.slots}: see --max-loras.")
        begin = time.monotonic()
        packed = self._read(adapter)
        entry = self._enter(adapter, self._free.pop(), packed)
        if retired:
            entry.retired, entry.kept_until = True, time.monotonic() + _RETURN_S
        logger.info("adapter %s: loaded in %.1f s", adapter.name, time.monotonic() - begin)

    def load(self, requester: Requester, adapter: Adapter) -> AdapterAnswer | None:
        """Begin to load; ``finish`` says how it ended. Returns at once what speaks against it."""
        name = adapter.name
        entry = self._entries.get(name)
        if entry is not None and entry.retired:
            return _refusal(requester, f"adapter '{name}' is being unloaded: sequences still use it", "invalid")
        if entry is not None or name in self._loading:
            return _refusal(requester, f"adapter '{name}' is loaded already", "invalid")
        if not self._free:
            most = self._adapters.slots
            return _refusal(requester, f"{most} adapters are loaded, which is the most (--max-loras)", "invalid")
        loading = _Loading(adapter, self._free.pop(), Future(), requester)
        self._loading[name] = loading
        threading.Thread(target=self._work, args=(loading,), name=f"adapter {name}", daemon=True).start()
        return None

    def unload(self, requester: Requester, name: str) -> AdapterAnswer:
        """Let nobody name it from now on."""
        entry = self._entries.get(name)
        if entry is None or entry.retired:
            return _refusal(requester, f"adapter '{name}' is not loaded", "unknown")
        entry.retired = True
        logger.info("adapter %s: unloaded", name)
        return AdapterAnswer(requester.request_id)

    def finish(self) -> Iterator[tuple[Requester, AdapterAnswer]]:
        """Let in what was loaded since the last call. Gives an answer for each, failed ones too."""
        for name, loading in list(self._loading.items()):
            if not loading.packed.done():
                continue
            del self._loading[name]
            error = loading.packed.exception()
            if error is None:
                self._enter(loading.adapter, loading.slot, loading.packed.result())
                logger.info("adapter %s: loaded", name)
                yield loading.requester, AdapterAnswer(loading.requester.request_id)
            else:
                self._free.append(loading.slot)
                yield loading.requester, _refusal(loading.requester, str(error), "invalid")

    def free(self, slot: int) -> None:
        """Forget the retired adapter in a slot that no sequence has any more."""
        (name,) = [name for name, entry in self._entries.items() if entry.slot == slot]
        assert self._entries.pop(name).retired
        self._adapters.clear(slot)
        if self._ranks is not None:
            self._ranks.clear_adapter(slot)
        self._free.append(slot)

    def _enter(self, adapter: Adapter, slot: int, packed: _Packed) -> _Entry:
        self._adapters.put(slot, packed.parts)
        if self._ranks is not None:
            self._ranks.put_adapter(adapter, slot)
        entry = _Entry(adapter, slot, packed.key)
        self._entries[adapter.name] = entry
        return entry

    def _read(self, adapter: Adapter) -> _Packed:
        try:
            updates = read_adapter(Path(adapter.path), self._adapters.linears)
            return _Packed(_content_key(updates), self._adapters.pack(updates))
        except ModelError as error:
            raise ModelError(f"adapter {adapter.name}: {error}") from error

    def _work(self, loading: _Loading) -> None:
        if sys.platform == "linux":  # elsewhere it would be the niceness of the process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            loading.packed.set_result(self._read(loading.adapter))
        except Exception as error:  # goes to whoever asked: memory may have run out, too
            loading.packed.set_exception(error)
        self.wake()


def _content_key(updates: Updates) -> bytes:
    """The same for the same numbers, in every process: what was computed with them is found again."""
    whole = hashlib.blake2b(digest_size=_KEY_BYTES)
    for name, update in sorted(updates.items()):
        whole.update(repr((name, update.scale, update.a.shape, update.b.shape, update.a.dtype)).encode())
        for matrix in (update.a, update.b):
            whole.update(matrix.contiguous().view(torch.uint8).numpy().data)
    return b"adapter" + whole.digest()


def _refusal(requester: Requester, error: str, error_type: AdapterError) -> AdapterAnswer:
    return AdapterAnswer(requester.request_id, error, error_type)


def load_at_start(adapters: AdapterSet, wanted: tuple[Adapter, ...], socket: Path) -> None:
    """What the engine before this one had; for the first, what was asked for at start. Raises ModelError."""
    records = read_records(socket)
    if records is None:
        for adapter in wanted:
            adapters.load_now(adapter)
        return
    for record in records:
        try:
            adapters.load_now(record.adapter, retired=record.retired)
        except ModelError as error:  # no reason to give up everybody else's sequences
            logger.error("it was loaded before, and cannot be loaded again: %s", error)
