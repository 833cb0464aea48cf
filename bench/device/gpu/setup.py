"""What the parts of the GPU command share: where they run, and the two kinds of results they give."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Norm of the difference over norm of the result. A 16-bit value is off by a third of its last bit on average; what is
# multiplied in 16 bits (attention's weights) adds as much again.
TOLERANCES = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@dataclass(frozen=True)
class Setup:
    """Where and how large."""

    device: torch.device
    dtype: torch.dtype  # of rows, weights and pages
    tiny: bool = False  # shapes for Triton's interpreter
    quick: bool = False  # fewer shapes, fewer repetitions

    @property
    def converts_fp8(self) -> bool:
        """Whether Triton compiles conversions of e4m3 for the device: from 8.9 on."""
        return self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) >= (8, 9)

    def randn(self, *shape: int, dtype: torch.dtype | None = None, seed: int = 0) -> torch.Tensor:
        """Normal random numbers, the same on every device."""
        made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return made.to(dtype or self.dtype).to(self.device)

    def int32(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)


@dataclass
class Comparison:
    """A kernel's result against its formula in float64."""

    name: str
    error: float  # norm of the difference over norm of the result; or 0 and 1 where only equality will do
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance  # not so for NaN


@dataclass
class Figure:
    """How long one call took, and the work that was in it."""

    name: str
    seconds: float  # median of many calls
    traffic_bytes: int = 0  # to read and write at least
    flops: int = 0
    note: str = ""  # what else belongs to it


class Skipped(Exception):
    """A part cannot run here; the reason is for the report."""


Result = Comparison | Figure
Results = Iterator[Result]


def need_fp8(setup: Setup) -> None:
    """Raises Skipped on a device that is too old for it."""
    if not setup.converts_fp8:
        raise Skipped("no fp8 before compute capability 8.9")


def compare(name: str, got: torch.Tensor, want: torch.Tensor, tolerance: float | None = None) -> Comparison:
    """Compare with float64 ``want``, in the norm; the tolerance is the dtype's unless given."""
    error = torch.linalg.norm(got.double() - want) / torch.linalg.norm(want)
    return Comparison(name, float(error), TOLERANCES[got.dtype] if tolerance is None else tolerance)


def equal(name: str, got: torch.Tensor, want: torch.Tensor) -> Comparison:
    """Compare bit for bit."""
    return Comparison(name, 0.0 if torch.equal(got, want) else 1.0, 0.0)
