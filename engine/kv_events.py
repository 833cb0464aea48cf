"""What the prefix cache gains and loses, told in vLLM's form, so that a router elsewhere knows whose prompt lies where.

The events are those of vllm/distributed/kv_events.py. A block is a page; its hash, of all tokens up to its end, is the
last 64 bits of the page's key, as vLLM cuts its own.
"""

from typing import Protocol

from msgspec import Struct

from .sequence import Sequence

MEDIUM = "GPU"  # vLLM's word for the memory that steps read, which it is on a CPU too; pages on disk aren't told of


class KVCacheEvent(Struct, array_like=True, omit_defaults=True, gc=False, tag=True):
    """``[name, field, field ...]`` in msgpack."""


class BlockStored(KVCacheEvent):
    """Pages that can be found from now on, in the order of one text.

    Attributes:
        parent_block_hash: of the page before the first; None: that begins its text.
        token_ids: of all these pages, ``block_size`` each.
        lora_id: slot of the adapter that they were computed with; ``lora_name``: its name.
    """

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None


class BlockRemoved(KVCacheEvent):
    """Pages that were taken for something else."""

    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(KVCacheEvent):
    """Nothing is there: an engine begins."""


KVEvent = BlockStored | BlockRemoved | AllBlocksCleared


def block_hash(key: bytes) -> int:
    """Of the page with this key: 64 bits."""
    return int.from_bytes(key[-8:], "big")


class Publisher(Protocol):
    """Who sends events; kv_publisher.py."""

    @property
    def dropped(self) -> int:
        """Batches that nobody can get any more."""
        ...

    def publish(self, events: list[KVEvent]) -> None:
        """Send them as one batch, later. Never waits."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class KVEvents:
    """Collects a step's events. All methods are for the engine's thread.

    Pages of a text with a salt are left out: tokens are published, and who hides a text from other tenants doesn't want
    it on the network either.
    """

    def __init__(self, publisher: Publisher, page_size: int) -> None:
        self._publisher = publisher
        self._page_size = page_size
        self._events: list[KVEvent] = []
        self._untold: set[bytes] = set()  # keys of pages that nobody was told of

    @property
    def dropped(self) -> int:
        """Counter: batches that weren't sent."""
        return self._publisher.dropped

    def stored(self, sequence: Sequence, pages: range) -> None:
        """The sequence's pages of these indices can be found now, and could not before."""
        keys = sequence.page_keys[pages.start : pages.stop]
        if sequence.scheduling.cache_salt:
            self._untold.update(keys)
            return
        size = self._page_size
        self._events.append(
            BlockStored(
                block_hashes=[block_hash(key) for key in keys],
                parent_block_hash=block_hash(sequence.page_keys[pages.start - 1]) if pages.start else None,
                token_ids=sequence.tokens[pages.start * size : pages.stop * size],
                block_size=size,
                lora_id=sequence.adapter or None,
                medium=MEDIUM,
                lora_name=sequence.sampling.adapter,
            )
        )

    def save(self, page: int, key: bytes) -> None:  # noqa: ARG002 - the name is that of pages.Keeper
        """The page is about to be something else's."""
        if key in self._untold:
            self._untold.remove(key)
        elif self._events and isinstance(last := self._events[-1], BlockRemoved):
            last.block_hashes.append(block_hash(key))
        else:
            self._events.append(BlockRemoved([block_hash(key)], MEDIUM))

    def cleared(self) -> None:
        """No page holds anything that can be found."""
        self._events.append(AllBlocksCleared())

    def flush(self) -> None:
        """Publish what has happened since the last call, if anything has."""
        if self._events:
            self._publisher.publish(self._events)
            self._events = []

    def close(self) -> None:
        """The last step was read."""
        self.flush()
        self._publisher.close()
