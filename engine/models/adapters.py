"""Linears that adapters may change, and where a step's rows say which: adapters lie in slots, 1 and up; 0 is none.

``WeightLoader`` wraps a linear here when it is loaded, so that layers know nothing of it. Without ``--max-loras``
nothing is wrapped; with it, a step without adapters launches a program that was recorded without them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...kernels import Backend, Linear
from ...kernels.low_rank import AdapterTable, LowRank
from .shard import split_order

Whole = Callable[[torch.Tensor], torch.Tensor]

# Those of a layer's attention, MLP and shared expert, or the layer's own. The head, embeddings, routers (which are no
# linears to PEFT) and experts have no adapters.
_ADAPTABLE = re.compile(r"[A-Za-z_.]+\.\d+(\.\w+){1,3}(?<!\.gate)")


class AdaptedLinear:
    """A linear, and what the adapters of its rows add."""

    def __init__(self, base: Linear, table: AdapterTable, adapters: "Adapters", whole: Whole | None) -> None:
        self._base, self._table, self._adapters, self._whole = base, table, adapters, whole

    @property
    def nbytes(self) -> int:
        return self._base.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See Linear."""
        y = self._base(x)
        if (slots := self._adapters.applied) is not None:
            self._table.add(x if self._whole is None else self._whole(x), slots[: x.shape[0]], y)
        return y


class _Site:
    """One linear that was wrapped: its table, and the parts that it was fused of."""

    def __init__(self, table: AdapterTable, parts: Sequence[tuple[str, int]], order: torch.Tensor | None) -> None:
        self.table = table
        self._names = [name for name, _ in parts]
        self._orders = split_order([width for _, width in parts], order)

    def pack(self, updates: Mapping[str, LowRank]) -> Any:
        parts = []
        for name, order in zip(self._names, self._orders, strict=True):
            update = updates.get(name)
            if update is not None and order is not None:
                update = update._replace(b=update.b[order])
            parts.append(update)
        return None if all(part is None for part in parts) else self.table.pack(parts)


class Adapters:
    """All wrapped linears of a model.

    Attributes:
        slots: how many adapters there may be.
        linears: outputs and inputs of those that an adapter may change, by their names in a checkpoint.
        applied: int32 [any], the slot of each row, while ops are to be launched or recorded with adapters; else None.
    """

    def __init__(self, backend: Backend, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        """``dtype``: that of the rows that enter the linears."""
        self.slots = slots
        self.linears: dict[str, tuple[int, int]] = {}
        self.applied: torch.Tensor | None = None
        self._backend, self._dtype, self._device = backend, dtype, device
        self._sites: list[_Site] = []

    def wrap(
        self,
        linear: Linear,
        parts: Sequence[tuple[str, int]],
        inner: int,
        order: torch.Tensor | None,
        whole: Whole | None = None,
    ) -> Linear:
        """``linear`` with room for adapters, if it is one that may have them; arguments as of WeightLoader.linear.

        ``whole``: all inputs of rows of which ``linear`` has some; None: it has all.
        """
        if not all(_ADAPTABLE.fullmatch(name) for name, _ in parts):
            return linear
        orders = split_order([width for _, width in parts], order)
        widths = [width if own is None else len(own) for (_, width), own in zip(parts, orders, strict=True)]
        table = self._backend.new_adapters(inner, widths, self.slots, self._dtype, self._device)
        self._sites.append(_Site(table, parts, order))
        self.linears.update({name: (width, inner) for name, width in parts})
        return AdaptedLinear(linear, table, self, whole)

    @contextmanager
    def applying(self, row_slots: torch.Tensor) -> Iterator[None]:
        """Within it, the linears add what the slots of their rows have."""
        self.applied = row_slots
        try:
            yield
        finally:
            self.applied = None

    def pack(self, updates: Mapping[str, LowRank]) -> list[Any]:
        """An adapter as the backend reads it. Any thread may call it."""
        return [site.pack(updates) for site in self._sites]

    def put(self, slot: int, packed: Sequence[Any]) -> None:
        """Let an empty slot have an adapter, from the next step on."""
        for site, part in zip(self._sites, packed, strict=True):
            site.table.put(slot, part)

    def clear(self, slot: int) -> None:
        """Empty a slot that no row of a later step has; waits for the steps under way."""
        self._backend.Event().wait()
        for site in self._sites:
            site.table.put(slot, None)
