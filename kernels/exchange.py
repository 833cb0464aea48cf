"""What the ranks of one model exchange, and in which order its sums are taken so that their number changes no bit.

A linear whose inputs are divided is a sum of SEGMENTS products, each over a fixed range of k, added in a fixed tree:

    y = ((p0 + p1) + (p2 + p3)) + ((p4 + p5) + (p6 + p7))

A bias is part of the first product. Each rank has neighbouring segments and so a subtree. It adds those up, and of all
ranks' sums every rank adds the rest of the tree. One device that takes its sums in this way gives the same bits, as
arXiv 2511.17826 does on GPUs.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from .routing import Routing

SEGMENTS = 8  # and so the most ranks


class _Linear(Protocol):
    @property
    def nbytes(self) -> int: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class _Grouped(Protocol):
    @property
    def nbytes(self) -> int: ...

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor: ...


class Exchange(Protocol):
    """One rank's end of what ``size`` ranks exchange. All ranks call the same methods in the same order.

    Attributes:
        rank: 0 and up; rank 0 schedules and samples.
        size: how many there are: 1, 2, 4 or 8.
    """

    rank: int
    size: int

    def packing(self) -> AbstractContextManager[None]:
        """In which linears are packed: the order of their sums doesn't depend on how many outputs a rank has."""
        ...

    def summed(self, parts: Sequence[_Linear], widths: Sequence[int]) -> _Linear:
        """The sum of all ranks' products, from this rank's: [rows, in] -> [rows, out] whole, on every rank.

        Args:
            parts: linears, one for each segment of k that this rank has.
            widths: of each one's inputs, which follow each other in the rows.
        """
        ...

    def summed_group(self, parts: Sequence[_Grouped], widths: Sequence[int]) -> _Grouped:
        """The same for experts: each part has a segment of all of them."""
        ...

    def broadcast(self, tensors: Sequence[torch.Tensor], of_sequences: Sequence[torch.Tensor] = ()) -> None:
        """What rank 0 has in these, to all others.

        ``of_sequences``: as many of their rows as the launch has sequences.
        """
        ...

    def gather(self, x: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """All ranks' columns, one rank's after another: [rows, widths[rank]] fp32 or bf16 -> [rows, sum(widths)]."""
        ...
