"""Copies from pinned memory, which the device reads some time after they were asked for.

A model of the worst device: it reads at the last moment, when the host learns that it has. What the host has written
into that memory meanwhile is what would have arrived.
"""

from typing import NamedTuple

import torch


class _Copy(NamedTuple):
    number: int
    source: torch.Tensor  # the host's memory
    then: torch.Tensor  # what it held when the copy was asked for


class PinnedCopies:
    """Those that may not have happened yet."""

    def __init__(self) -> None:
        self.launched = 0  # so far
        self._open: list[_Copy] = []

    def launch(self, source: torch.Tensor) -> None:
        """A copy from ``source`` to the device was asked for."""
        self.launched += 1
        self._open.append(_Copy(self.launched, source, source.clone()))

    def are_done(self, number: int) -> None:
        """The host knows that the copies up to the ``number``-th are over.

        Raises AssertionError where memory was written before its copy was known to be over.
        """
        done = [copy for copy in self._open if copy.number <= number]
        self._open = [copy for copy in self._open if copy.number > number]
        for copy in done:
            kind = f"{copy.source.dtype} {list(copy.source.shape)}"
            assert torch.equal(_bytes(copy.source), _bytes(copy.then)), f"pinned memory was reused too early: {kind}"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
