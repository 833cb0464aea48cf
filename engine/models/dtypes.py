"""In what each part of the runtime keeps its numbers."""

from typing import NamedTuple

import torch

from ...kernels import Backend
from ..checkpoint.errors import ModelError
from ..config import KvCacheDtype
from .config import DTYPE_NAMES, check_dtype

FP8 = torch.float8_e4m3fn
DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}


class Dtypes(NamedTuple):
    """The five choices; see kernels/__init__.py for what a backend makes of a model's dtype."""

    model: torch.dtype  # what weights are rounded to when loaded
    weights: torch.dtype  # how a backend stores them: the same values
    rows: torch.dtype  # what enters a linear
    pages: torch.dtype  # K and V as they are kept
    stream: torch.dtype  # what leaves a linear, and the residual stream


def choose_dtypes(
    backend: Backend, model: str, activations: str | None = None, kv_cache: KvCacheDtype = "auto"
) -> Dtypes:
    """Dtypes for a model's dtype and, where given, others for the rows and the pages. Raises ModelError."""
    for name in (model, activations or model):
        check_dtype(name)
    weights = backend.storage_dtype(DTYPES[model])
    rows = backend.storage_dtype(DTYPES[activations or model])
    if rows not in backend.row_dtypes(weights):
        raise ModelError(
            f"activations in {activations} beside weights in {model}: this backend cannot multiply the two"
        )
    pages = rows if kv_cache == "auto" else FP8
    return Dtypes(DTYPES[model], weights, rows, pages, backend.stream_dtype(DTYPES[model]))


def kv_cache_name(pages: torch.dtype) -> str:
    """The pages' dtype as --kv-cache-dtype calls it."""
    return "fp8_e4m3fn" if pages == FP8 else str(pages).removeprefix("torch.")
