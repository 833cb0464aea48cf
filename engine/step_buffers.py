"""The inputs of a step in fixed memory: filled on the host, copied once, read by every kernel."""

import numpy as np
import torch

from ..kernels import SamplingBatch, StepBatch
from .limits import Limits
from .scheduler import Chunk


class StepBuffers:
    """Arrays of the largest step. ``fill`` returns views cut to the step's rows."""

    def __init__(self, limits: Limits, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._page_size = limits.page_size
        rows, sequences = limits.max_rows, limits.max_sequences
        max_pages = -(-limits.max_total_tokens // limits.page_size)
        self._token_ids = torch.zeros(rows, dtype=torch.int64)
        self._positions = torch.zeros(rows, dtype=torch.int32)
        self._slots = torch.zeros(rows, dtype=torch.int64)
        self._query_start = torch.zeros(sequences + 1, dtype=torch.int32)
        self._kv_lengths = torch.zeros(sequences, dtype=torch.int32)
        self._page_table = torch.zeros(sequences, max_pages, dtype=torch.int32)
        self._last_rows = torch.zeros(sequences, dtype=torch.int64)
        # Tokens of the sequences that asked for a penalty: row 0 .. sequences - 1, given out by the engine.
        self.token_counts = torch.zeros(sequences, vocab_size, dtype=torch.int32, device=device)

    def fill(self, chunks: list[Chunk]) -> tuple[torch.Tensor, StepBatch, torch.Tensor]:
        """Token ids [rows], the step's batch, and the rows [n] to sample from, in the order of ``chunks``."""
        token_ids, positions, slots = (t.numpy() for t in (self._token_ids, self._positions, self._slots))
        query_start, kv_lengths = self._query_start.numpy(), self._kv_lengths.numpy()
        page_table, last_rows = self._page_table.numpy(), self._last_rows.numpy()
        row = sampled = 0
        for index, chunk in enumerate(chunks):
            sequence, end = chunk.sequence, chunk.start + chunk.count
            pages = np.array(sequence.pages, dtype=np.int64)
            rows = slice(row, row + chunk.count)
            token_ids[rows] = sequence.tokens[chunk.start : end]
            at = np.arange(chunk.start, end)
            positions[rows] = at
            slots[rows] = pages[at // self._page_size] * self._page_size + at % self._page_size
            row += chunk.count
            query_start[index + 1] = row
            kv_lengths[index] = end
            page_table[index, : len(pages)] = pages
            if chunk.samples:
                last_rows[sampled] = row - 1
                sampled += 1
        count = len(chunks)
        batch = StepBatch(
            positions=self._positions[:row].to(self._device),
            slots=self._slots[:row].to(self._device),
            query_start=self._query_start[: count + 1].to(self._device),
            kv_lengths=self._kv_lengths[:count].to(self._device),
            page_table=self._page_table[:count].to(self._device),
        )
        return self._token_ids[:row].to(self._device), batch, self._last_rows[:sampled].to(self._device)

    def fill_sampling(self, chunks: list[Chunk]) -> SamplingBatch:
        """How to sample each chunk that reaches its sequence's end."""
        sequences = [chunk.sequence for chunk in chunks if chunk.samples]
        params = [sequence.sampling for sequence in sequences]

        def column(values: list, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=self._device)

        return SamplingBatch(
            greedy=column([p.greedy for p in params], torch.bool),
            temperature=column([p.temperature for p in params], torch.float32),
            top_k=column([p.top_k for p in params], torch.int32),
            top_p=column([p.top_p for p in params], torch.float32),
            repetition_penalty=column([p.repetition_penalty for p in params], torch.float32),
            # torch has no unsigned 64-bit arithmetic: the same bits, read as signed.
            seeds=column([p.seed - (1 << 64) if p.seed >= 1 << 63 else p.seed for p in params], torch.int64),
            positions=column([sequence.total for sequence in sequences], torch.int64),
            seen=column([sequence.penalty_row for sequence in sequences], torch.int32),
            token_counts=self.token_counts,
        )
