"""What ranks of this backend exchange (kernels/exchange.py), by torch.distributed: NCCL on GPUs, and Gloo elsewhere.

Partial sums, fp32, are gathered from all ranks and added in the tree of kernels/exchange.py, whatever order the library
would have added them in. All of it is on the stream, so that CUDA graphs have it.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
import triton
import triton.language as tl

from .. import Linear
from ..routing import GroupedLinear, Routing
from .linear import logits
from .linear_tiles import sums_of_any_shard

_BLOCK = 1024  # values of a program
MANY_ROWS = 64  # from here on two exchanges of less take no longer than one of all
_PORT = slice(0, 8)  # of the shared memory: where rank 0's store listens, int64
_PATIENCE_S = 600.0  # a rank may read its weights for that much longer than another


@triton.jit(do_not_specialize=["count"])
def _tree_sum_kernel(
    p0_ptr, p1_ptr, p2_ptr, p3_ptr, p4_ptr, p5_ptr, p6_ptr, p7_ptr,  # fp32 [count], the first PARTS are read
    y_ptr,  # [count] out
    count,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    total = tl.load(p0_ptr + at, mask=mask)
    if PARTS >= 2:
        total += tl.load(p1_ptr + at, mask=mask)
    if PARTS >= 4:
        total += tl.load(p2_ptr + at, mask=mask) + tl.load(p3_ptr + at, mask=mask)
    if PARTS >= 8:
        upper = tl.load(p4_ptr + at, mask=mask) + tl.load(p5_ptr + at, mask=mask)
        upper += tl.load(p6_ptr + at, mask=mask) + tl.load(p7_ptr + at, mask=mask)
        total += upper
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=mask)


def tree_sum(parts: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """1, 2, 4 or 8 tensors, fp32 of one shape, added pair by pair, in ``dtype``."""
    assert len(parts) in (1, 2, 4, 8)
    y = torch.empty_like(parts[0], dtype=dtype)
    pointers = [parts[min(index, len(parts) - 1)] for index in range(8)]
    grid = (triton.cdiv(y.numel(), _BLOCK),)
    _tree_sum_kernel[grid](*pointers, y, y.numel(), PARTS=len(parts), BLOCK=_BLOCK)
    return y


class _Summed:
    """See Exchange.summed."""

    def __init__(self, exchange: "TorchExchange", parts: Sequence[Linear], widths: Sequence[int]) -> None:
        self._exchange, self._parts, self._widths = exchange, list(parts), list(widths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        columns = [each.contiguous() for each in x.split(self._widths, 1)]
        sums = [logits(part, own) for part, own in zip(self._parts, columns, strict=True)]
        return self._exchange.sum(sums, x.dtype)


class _SummedGroup:
    """See Exchange.summed_group. What one expert's segment gives is in the rows' dtype before it is added."""

    def __init__(self, exchange: "TorchExchange", parts: Sequence[GroupedLinear], widths: Sequence[int]) -> None:
        self._exchange, self._parts, self._widths = exchange, list(parts), list(widths)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        columns = [each.contiguous() for each in x.split(self._widths, 1)]
        sums = [part(own, routing).float() for part, own in zip(self._parts, columns, strict=True)]
        return self._exchange.sum(sums, x.dtype)


class TorchExchange:
    """One rank's end; see Exchange."""

    def __init__(self, rank: int, size: int) -> None:
        """With more than one, torch's default process group has them all."""
        self.rank, self.size = rank, size

    def packing(self) -> AbstractContextManager[None]:
        """See Exchange."""
        return sums_of_any_shard()

    def summed(self, parts: Sequence[Linear], widths: Sequence[int]) -> Linear:
        """See Exchange."""
        return _Summed(self, parts, widths)

    def summed_group(self, parts: Sequence[GroupedLinear], widths: Sequence[int]) -> GroupedLinear:
        """See Exchange."""
        return _SummedGroup(self, parts, widths)

    def sum(self, parts: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Of all ranks' ``parts``, fp32 [rows, width] each, in ``dtype``."""
        if self.size == 1:
            return tree_sum(parts, dtype)
        partial = parts[0] if len(parts) == 1 else tree_sum(parts, torch.float32)
        rows = len(partial)
        if rows < MANY_ROWS or rows % self.size:
            return tree_sum(self._all(partial), dtype)
        # Each rank adds up some of the rows for all: 6 (N - 1) / N bytes a value come in place of 4 (N - 1).
        theirs = torch.empty_like(partial)
        dist.all_to_all_single(theirs, partial)
        summed = tree_sum(list(theirs.view(self.size, rows // self.size, -1)), dtype)
        y = summed.new_empty(rows, summed.shape[1])
        dist.all_gather_into_tensor(y, summed)
        return y

    def broadcast(self, tensors: Sequence[torch.Tensor], of_sequences: Sequence[torch.Tensor] = ()) -> None:
        """See Exchange. A graph doesn't know the number of sequences: all of their rows go."""
        if self.size > 1:
            for tensor in (*tensors, *of_sequences):
                dist.broadcast(tensor, 0)

    def gather(self, x: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """See Exchange."""
        if self.size == 1:
            return x
        widest = max(widths)
        padded = x if x.shape[1] == widest else torch.nn.functional.pad(x, (0, widest - x.shape[1]))
        parts = self._all(padded.contiguous())
        return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)

    def _all(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's, in their order."""
        parts = x.new_empty(self.size, *x.shape)
        dist.all_gather_into_tensor(parts.view(-1, *x.shape[1:]), x)
        return list(parts)


def new_exchange(rank: int, size: int, memory: torch.Tensor | None) -> TorchExchange:
    """One rank's end of what ``size`` ranks exchange; ``memory``, which they share, tells them where to meet."""
    if size > 1 and not dist.is_initialized():
        assert memory is not None
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=_meet(rank, size, memory), rank=rank, world_size=size
        )
    return TorchExchange(rank, size)


def _meet(rank: int, size: int, memory: torch.Tensor) -> dist.TCPStore:
    port = memory[_PORT].view(torch.int64)
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
        port[0] = store.port
        return store
    end = time.monotonic() + _PATIENCE_S
    while port.item() == 0:
        if time.monotonic() > end:
            raise TimeoutError("rank 0 has not said where to meet")
        time.sleep(0.01)
    return dist.TCPStore("127.0.0.1", int(port.item()), size, is_master=False)
