"""The inputs of a step in fixed memory: filled on the host, copied once, read by every kernel."""

from typing import NamedTuple

import numpy as np
import torch

from ..kernels import StepBatch
from .chunk import Chunk
from .limits import Limits
from .sequence import Sequence
from .staging import Copy, StagedTensor, StagingBuffer


class StepSize(NamedTuple):
    """What of the buffers a step uses."""

    rows: int
    sequences: int
    samples: int  # rows whose next token is drawn


class StepBuffers:
    """Arrays of the largest step. Rows past a step's own are harmless: they write to the trash page."""

    def __init__(self, limits: Limits, max_samples: int, device: torch.device) -> None:
        self._page_size = limits.page_size
        rows, sequences = limits.max_rows, limits.max_sequences
        max_pages = -(-limits.max_total_tokens // limits.page_size)
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
            },
            device,
        )
        self._page_table = StagedTensor((sequences, max_pages), torch.int32, device)
        self._uploaded_sequences = 0
        self._tables = np.zeros((sequences, max_pages), np.int32)  # by the sequences' slots
        self._tabled = [0] * sequences  # entries of a table that are right
        self._sampled_at = [-1] * sequences  # by slot: row of the last step's samples

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
        return StepBatch(
            positions=device["positions"][:rows],
            slots=device["slots"][:rows],
            query_start=device["query_start"],
            kv_lengths=device["kv_lengths"],
            page_table=self._page_table.device,
        )

    def start(self, sequence: Sequence) -> None:
        """Take in a sequence that has its slot; what the slot held before is forgotten."""
        self._tabled[sequence.slot] = 0

    def stage(self, chunks: list[Chunk]) -> StepSize:
        """Lay out a step on the host."""
        page_size, tables, tabled = self._page_size, self._tables, self._tabled
        tokens: list[int] = []
        slots, starts, counts = [], [], []
        unread: list[tuple[int, int]] = []  # row, and where its token is among the last samples
        for chunk in chunks:
            sequence = chunk.sequence
            slot, start, count, pages = sequence.slot, chunk.start, chunk.count, sequence.pages
            # A page of rejected guesses may have been taken back and another come in its place.
            right = min(tabled[slot], start // page_size)
            if right < len(pages):
                tables[slot, right : len(pages)] = pages[right:]
                tabled[slot] = len(pages)
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
        page_table = self._page_table.arrays[self._page_table.turn()]
        page_table[:sequences] = tables[slots]
        pages_of_row = page_table[of_row, positions // page_size].astype(np.int64)
        _set(host["slots"], pages_of_row * page_size + positions % page_size, 0)
        self._uploaded_sequences = sequences
        return StepSize(rows, sequences, self._stage_samples(chunks, query_start, host["last_rows"]))

    def upload(self, copy: Copy) -> None:
        """Bring what was staged to the device."""
        self._inputs.upload(copy)
        self._page_table.upload(self._uploaded_sequences, copy)

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
