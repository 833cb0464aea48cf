"""The inputs of a step in fixed memory: filled on the host, copied once, read by every kernel."""

from typing import NamedTuple

import numpy as np
import torch

from ..kernels.step_batch import StepBatch, TableChanges
from .chunk import Chunk
from .limits import Limits
from .page_tables import PageTables
from .sequence import Sequence
from .staging import Copy, StagedTensor, StagingBuffer

_CHANGES = 1024  # entries of page tables that a step brings; where more have changed, the tables go whole


class StepSize(NamedTuple):
    """What of the buffers a step uses."""

    rows: int
    sequences: int
    samples: int  # rows whose next token is drawn


class StepBuffers:
    """Arrays of the largest step. Rows past a step's own are harmless: they write to the trash page."""

    def __init__(self, limits: Limits, max_samples: int, device: torch.device, keeps_page_tables: bool = False) -> None:
        """``keeps_page_tables``: of the backend."""
        self._page_size = limits.page_size
        self._keeps_page_tables = keeps_page_tables
        rows, sequences = limits.max_rows, limits.max_sequences
        max_pages = -(-limits.max_total_tokens // limits.page_size)
        changes = min(_CHANGES, sequences * max_pages) if keeps_page_tables else 0
        self._inputs = StagingBuffer(
            {
                "token_ids": ((rows,), torch.int64),
                "sources": ((rows,), torch.int64),  # row of the last step's samples that holds the token; -1: none
                "slots": ((rows,), torch.int64),
                "last_rows": ((max_samples,), torch.int64),
                "positions": ((rows,), torch.int32),
                "adapters": ((rows,), torch.int32),
                "query_start": ((sequences + 1,), torch.int32),
                "kv_lengths": ((sequences,), torch.int32),
                "table_rows": ((sequences if changes else 0,), torch.int32),
                "table_places": ((changes,), torch.int32),
                "table_pages": ((changes,), torch.int32),
            },
            device,
        )
        self._page_table = StagedTensor((sequences, max_pages), torch.int32, device)
        self._uploaded_sequences = 0
        self._tables = PageTables(sequences, max_pages)
        self._sampled_at = [-1] * sequences  # by slot: row of the last step's samples

    @property
    def memory(self) -> torch.Tensor:
        """All on the device but the page table, uint8 [any]."""
        return self._inputs.memory

    @property
    def page_table(self) -> torch.Tensor:
        """int32 [sequences, pages], on the device."""
        return self._page_table.device

    @property
    def token_ids(self) -> torch.Tensor:
        """int64 [rows], on the device."""
        return self._inputs.device["token_ids"]

    @property
    def sources(self) -> torch.Tensor:
        """int64 [rows], on the device; see ``Backend.take_tokens``."""
        return self._inputs.device["sources"]

    @property
    def last_rows(self) -> torch.Tensor:
        """int64 [samples], on the device: the rows to sample from."""
        return self._inputs.device["last_rows"]

    @property
    def adapters(self) -> torch.Tensor:
        """int32 [rows], on the device: the slot of each row's adapter, 0 for none."""
        return self._inputs.device["adapters"]

    def batch(self, rows: int) -> StepBatch:
        """The first rows, and all sequences."""
        device = self._inputs.device
        changes = TableChanges(device["table_rows"], device["table_places"], device["table_pages"])
        return StepBatch(
            positions=device["positions"][:rows],
            slots=device["slots"][:rows],
            query_start=device["query_start"],
            kv_lengths=device["kv_lengths"],
            page_table=self._page_table.device,
            changes=changes if self._keeps_page_tables else None,
        )

    def start(self, sequence: Sequence) -> None:
        """Take in a sequence that has its slot; what the slot held before is forgotten."""
        self._tables.start(sequence.slot)

    def stage(self, chunks: list[Chunk]) -> StepSize:
        """Lay out a step on the host."""
        page_size, tables = self._page_size, self._tables
        tokens: list[int] = []
        slots, starts, counts = [], [], []
        unread: list[tuple[int, int]] = []  # row, and where its token is among the last samples
        for chunk in chunks:
            sequence = chunk.sequence
            slot, start, count = sequence.slot, chunk.start, chunk.count
            tables.update(slot, start // page_size, sequence.pages)
            slots.append(slot)
            starts.append(start)
            counts.append(count)
            known = sequence.tokens[start : start + count - len(chunk.drafts)]
            tokens += known
            if len(known) + len(chunk.drafts) < count:
                unread.append((len(tokens), self._sampled_at[slot]))
                tokens.append(0)
            tokens += chunk.drafts

        host = self._inputs.turn()
        sequences, rows = len(chunks), len(tokens)
        start_array, count_array = np.array(starts), np.array(counts)
        query_start = np.zeros(sequences + 1, np.int64)
        np.cumsum(count_array, out=query_start[1:])
        of_row = np.repeat(np.arange(sequences), count_array)
        positions = np.arange(rows) - (query_start[:-1] - start_array)[of_row]
        _set(host["token_ids"], tokens, 0)
        _set(host["positions"], positions, 0)
        _set(host["adapters"], np.repeat([chunk.sequence.adapter for chunk in chunks], count_array), 0)
        _set(host["query_start"], query_start, rows)
        _set(host["kv_lengths"], start_array + count_array, 0)
        host["sources"][:] = -1
        for row, source in unread:
            host["sources"][row] = source
        pages_of_row = tables.entries[np.array(slots)[of_row], positions // page_size].astype(np.int64)
        _set(host["slots"], pages_of_row * page_size + positions % page_size, 0)
        self._stage_tables(slots, host)
        return StepSize(rows, sequences, self._stage_samples(chunks, query_start, host["last_rows"]))

    def upload(self, copy: Copy) -> None:
        """Bring what was staged to the device."""
        self._inputs.upload(copy)
        self._page_table.upload(self._uploaded_sequences, copy)

    def _stage_tables(self, slots: list[int], host: dict[str, np.ndarray]) -> None:
        tables = self._tables
        self._uploaded_sequences = 0
        if not self._keeps_page_tables:
            self._uploaded_sequences = len(slots)
            self._page_table.arrays[self._page_table.turn()][: len(slots)] = tables.entries[slots]
        else:
            _set(host["table_rows"], slots, 0)
            if len(tables.places) > len(host["table_places"]):  # long prompts that were found in the cache
                self._uploaded_sequences = len(tables.entries)
                self._page_table.arrays[self._page_table.turn()][:] = tables.entries
                tables.forget_changes()
            _set(host["table_places"], tables.places, -1)
            _set(host["table_pages"], tables.pages, 0)
        tables.forget_changes()

    def _stage_samples(self, chunks: list[Chunk], query_start: np.ndarray, last_rows: np.ndarray) -> int:
        listed: list[int] = []
        for chunk, end in zip(chunks, query_start[1:].tolist(), strict=True):
            if chunk.samples:
                self._sampled_at[chunk.sequence.slot] = len(listed)
                listed += range(end - 1 - len(chunk.drafts), end)
        _set(last_rows, listed, 0)
        return len(listed)


def _set(target: np.ndarray, values: np.ndarray | list[int], rest: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = rest
