"""Mixtures of experts, as the kernel interface sees them: who a row goes to, and linears of which it takes one."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch


@dataclass(frozen=True)
class RoutingRule:
    """How the experts of a row are chosen by its logits, and weighed.

    Those with the largest logits are, the lowest of equals. Their weights are the softmax of all logits, or each one's
    sigmoid; renormalised, they are divided by their sum (which of a softmax is that of the chosen alone).
    Where experts have a bias (arXiv 2408.15664), those are chosen whose weight and bias are the largest sum.
    Sparsemixer's (arXiv 2409.12136) are the softmax of those that are left for the slot and close to the best of them:
    (best - logit) / max(|logit|, best) <= tolerance.
    """

    slots: int  # experts that a row goes to
    scoring: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    renormalise: bool = False
    scale: float = 1.0  # of all weights
    tolerance: float = 0.0


@dataclass(frozen=True)
class Routing:
    """Where the rows of a step go in one layer. A pair is a row and one of its experts; they are sorted by expert."""

    ids: torch.Tensor  # int32 [rows, slots], the row's experts, best first
    weights: torch.Tensor | None  # fp32 [rows, slots]; None: ``Backend.weigh`` has multiplied by them already
    rows: torch.Tensor  # int64 [pairs], the row of each pair
    positions: torch.Tensor  # int64 [rows, slots], which of the pairs it is
    plan: torch.Tensor  # the backend's own: where the pairs of each expert begin


class GroupedLinear(Protocol):
    """Linears of one shape, of which each pair of a row and an expert takes the expert's."""

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        ...

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        """[pairs, in] in the rows' dtype -> [pairs, out] in the stream's, both in the order of ``routing``."""
        ...
