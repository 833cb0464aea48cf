"""In what each part of the runtime keeps its numbers."""

from typing import NamedTuple

import torch

from ...kernels import Backend
from ..checkpoint.errors import ModelError
from .config import DTYPE_NAMES, check_dtype

DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}


class Dtypes(NamedTuple):
    """The four choices; see kernels/__init__.py for what a backend makes of a model's dtype."""

    model: torch.dtype  # what weights are rounded to when loaded
    weights: torch.dtype  # how a backend stores them: the same values
    rows: torch.dtype  # what enters a linear, and K and V in the pages
    stream: torch.dtype  # what leaves a linear, and the residual stream


def choose_dtypes(backend: Backend, model: str, activations: str | None) -> Dtypes:
    """Dtypes for a model's dtype and, where given, another one for the rows. Raises ModelError."""
    for name in (model, activations or model):
        check_dtype(name)
    weights = backend.storage_dtype(DTYPES[model])
    rows = backend.storage_dtype(DTYPES[activations or model])
    if rows not in backend.row_dtypes(weights):
        raise ModelError(
            f"activations in {activations} beside weights in {model}: this backend cannot multiply the two"
        )
    return Dtypes(DTYPES[model], weights, rows, backend.stream_dtype(DTYPES[model]))
