"""A low-rank update of a linear: what an adapter adds to one weight [out, in] of a model.

    y[row, o] += scale * sum_r b[o, r] * sum_k a[r, k] * x[row, k]

Hu et al. 2021 (arXiv 2106.09685). Ranks are padded with zeros to whole panels, which add nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F

MAX_RANK = 256
RANK_STEP = 16  # ranks are computed in multiples of it


class LowRank(NamedTuple):
    """One update, on the CPU, in any float dtype."""

    a: torch.Tensor  # [rank, in]
    b: torch.Tensor  # [out, rank]
    scale: float

    def padded(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """``a`` and ``b`` in ``dtype``, with a rank that is a multiple of RANK_STEP."""
        rank = self.a.shape[0]
        assert self.b.shape[1] == rank <= MAX_RANK
        missing = -rank % RANK_STEP
        return F.pad(self.a.to(dtype), (0, 0, 0, missing)), F.pad(self.b.to(dtype), (0, missing))


class AdapterTable(Protocol):
    """The adapters of one linear by slot, 1 and up; rows of slot 0 have none."""

    def pack(self, parts: Sequence[LowRank | None]) -> Any:
        """An adapter as the backend reads it: an update or None for each part. Any thread may call it."""
        ...

    def put(self, slot: int, packed: Any) -> None:
        """Let a slot have what ``pack`` returned, or nothing (None). No step under way may have rows of that slot."""
        ...

    def add(self, x: torch.Tensor, slots: torch.Tensor, y: torch.Tensor) -> None:
        """Add to y [rows, out], in the stream's dtype, what the slots (int32 [rows]) of the rows x [rows, in] have.

        Rows of one slot should be neighbours. Rows of slot 0 are not touched.
        """
        ...
