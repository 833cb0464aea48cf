"""Which part of a model one of several ranks has.

Q, K, V, gate and up are divided by outputs: whole heads, ranges of an MLP's width. Attention's output and down are
divided by inputs, along the same cuts, and summed over the ranks in a fixed tree (kernels/exchange.py); the head by
tokens. Norms, routers and the embedding, of which a row reads one line, are whole everywhere.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from msgspec.structs import replace

from ...kernels.exchange import SEGMENTS, Exchange
from ..checkpoint.errors import ModelError
from .config import ModelConfig

SIZES = (1, 2, 4, 8)  # ranks
_UNITS = (256, 128, 64, 32, 16, 8, 4, 2)  # in which a width is cut: groups of weights in blocks stay whole if they can
_VOCABULARY_UNIT = 64  # tokens


class Cuts(NamedTuple):
    """How the inputs of a linear are divided."""

    own: list[tuple[int, int]]  # ranges of this rank's segments
    widths: list[int]  # inputs of each rank


class Shard:
    """The part of one rank; of one that has everything unless there is an exchange."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        """``exchange``: with the other ranks, or of a single one that takes its sums as several would."""
        self.exchange = exchange
        self.rank, self.size = (0, 1) if exchange is None else (exchange.rank, exchange.size)

    def local(self, config: ModelConfig) -> ModelConfig:
        """As the model looks to this rank's attention and cache."""
        q, kv = config.num_q_heads // self.size, max(1, config.num_kv_heads // self.size)
        return config if self.size == 1 else replace(config, num_q_heads=q, num_kv_heads=kv)

    def qkv(self, config: ModelConfig, order: torch.Tensor | None) -> torch.Tensor | None:
        """Which outputs of Q, K and V this rank computes, where ``order`` says how all are taken; None: as they are."""
        if self.size == 1:
            return order
        q, kv = config.num_q_heads, config.num_kv_heads
        heads = torch.cat([self._q_heads(q), q + self._kv_heads(kv), q + kv + self._kv_heads(kv)])
        outputs = (heads[:, None] * config.head_dim + torch.arange(config.head_dim)).flatten()
        return outputs if order is None else order[outputs]

    def of_heads(self, values: torch.Tensor, heads: int, *, kv: bool = False) -> torch.Tensor:
        """This rank's of values [heads, ...] or [heads * any]."""
        if self.size == 1:
            return values
        by_head = values.view(heads, -1)[self._kv_heads(heads) if kv else self._q_heads(heads)]
        return by_head.reshape(-1, *values.shape[1:]).contiguous()

    def gated(self, width: int) -> torch.Tensor | None:
        """Which outputs of gate and up, [2 * width], this rank computes; None: all."""
        own = self.plain(width)
        return None if own is None else torch.cat([own, width + own])

    def plain(self, width: int) -> torch.Tensor | None:
        """Which outputs of an MLP's first linear this rank computes; None: all."""
        if self.size == 1:
            return None
        own = self._cuts(_segments_of_width(width)).own
        return torch.arange(own[0][0], own[-1][1])

    def head_cuts(self, config: ModelConfig) -> Cuts | None:
        """The segments of attention's output projection that this rank sums up; None: there are none."""
        if self.exchange is None:
            return None
        segment = config.num_q_heads * config.head_dim // SEGMENTS
        return self._cuts([i * segment for i in range(SEGMENTS + 1)])

    def width_cuts(self, width: int) -> Cuts | None:
        """The same of an MLP's last linear."""
        return None if self.exchange is None else self._cuts(_segments_of_width(width))

    def vocabulary(self, size: int) -> list[int]:
        """Tokens whose logits each rank computes, by rank."""
        units = -(-size // _VOCABULARY_UNIT)
        ends = [min(size, units * rank // self.size * _VOCABULARY_UNIT) for rank in range(1, self.size)]
        return [end - start for start, end in zip([0, *ends], [*ends, size], strict=True)]

    def _cuts(self, ends: list[int]) -> Cuts:
        """``ends``: of the segments, and 0 before."""
        each = SEGMENTS // self.size
        segments = list(pairwise(ends))
        own = segments[self.rank * each : (self.rank + 1) * each]
        return Cuts(own, [ends[(rank + 1) * each] - ends[rank * each] for rank in range(self.size)])

    def _q_heads(self, heads: int) -> torch.Tensor:
        each = heads // self.size
        return torch.arange(self.rank * each, (self.rank + 1) * each)

    def _kv_heads(self, heads: int) -> torch.Tensor:
        if heads < self.size:  # several ranks have a copy
            return torch.tensor([self.rank * heads // self.size])
        return self._q_heads(heads)


def split_order(widths: Sequence[int], order: torch.Tensor | None) -> list[torch.Tensor | None]:
    """``order`` over the outputs of several parts, one after another, as one over each part's own."""
    if order is None:
        return [None] * len(widths)
    orders: list[torch.Tensor | None] = []
    start = taken = 0
    for width in widths:
        own = order[(order >= start) & (order < start + width)]
        assert torch.equal(own, order[taken : taken + len(own)]), "outputs of one part stay together"
        orders.append(own - start)
        start, taken = start + width, taken + len(own)
    return orders


def _segments_of_width(width: int) -> list[int]:
    """0, and where each segment ends."""
    if width % (32 * SEGMENTS) == 0:
        unit = width // SEGMENTS
    else:  # some segments are a unit wider
        unit = next((unit for unit in _UNITS if width % unit == 0 and width // unit >= SEGMENTS), 0)
        assert unit, "refused by check_division"
    return [width // unit * i // SEGMENTS * unit for i in range(SEGMENTS + 1)]


def _widths(config: ModelConfig) -> set[int]:
    """Of all MLPs and experts."""
    widths = set()
    for layer in config.layers:
        if layer.experts is None:
            widths.add(config.intermediate_size)
        else:
            widths |= {layer.experts.width, layer.experts.shared_width} - {0}
    return widths


def check_division(config: ModelConfig, size: int) -> None:
    """Raises ModelError if the model can't be divided among so many ranks, or summed in segments."""
    heads, kv = config.num_q_heads, config.num_kv_heads

    def divides(size: int) -> bool:
        return heads % size == 0 and (kv % size == 0 or size % kv == 0)

    possible = [each for each in SIZES if divides(each)]
    if config.qk_norm == "width":
        possible = [1]
    segment = heads * config.head_dim / SEGMENTS
    for width in sorted(_widths(config)):
        if width % 2 or width < 2 * SEGMENTS:
            raise ModelError(f"--num-shard: an MLP of width {width} has no {SEGMENTS} segments of even width")
    if segment % 2:
        raise ModelError(f"--num-shard: {heads} heads of {config.head_dim} have no {SEGMENTS} segments of even width")
    if size not in possible:
        why = f"{heads} heads and {kv} KV heads"
        if config.qk_norm == "width":
            why = "its queries and keys are normalised over all heads together, which"
        told = ", ".join(map(str, possible))
        raise ModelError(f"--num-shard {size}: {why} can't be divided so; possible: {told}")
