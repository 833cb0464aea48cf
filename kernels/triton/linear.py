"""Linear layers: y = x W^T + b. Unquantised weights go to the vendor's library, which Triton does not beat."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class DenseLinear:
    """A weight as it was loaded: [out, in], and bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> DenseLinear:
    """Keep ``weight`` [out, in] and ``bias`` [out] as they are; the library reads them fastest so."""
    return DenseLinear(weight, bias)
