"""The rows of a step, which sequences they belong to, and where the KV of these is."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class TableChanges(NamedTuple):
    """How a page table differs from that of the step before, and which of its rows is whose."""

    rows: torch.Tensor  # int32 [sequences], of the page table
    places: torch.Tensor  # int32 [changes], in the flat table; -1: none
    pages: torch.Tensor  # int32 [changes]


@dataclass
class StepBatch:
    """The rows of one step, as every layer's kernels see them. Rows of a sequence are consecutive.

    Sequences past the last real one have no rows (``query_start`` stays flat) and ``kv_lengths`` 0, so static
    buffers of the largest size can be used for every step.
    """

    positions: torch.Tensor  # int32 [rows], token position of the row in its sequence
    slots: torch.Tensor  # int64 [rows], where the row's K and V go; padding rows point into page 0
    query_start: torch.Tensor  # int32 [sequences + 1], rows of sequence i: query_start[i] .. query_start[i + 1]
    kv_lengths: torch.Tensor  # int32 [sequences], tokens with KV once this step's rows are written
    page_table: torch.Tensor  # int32 [sequences, max_pages]
    changes: TableChanges | None = None  # of the page table, written by ``fill_plan``; None: row i is sequence i's
