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
    """The choices; see kernels/__init__.py for what a backend makes of a model's dtype."""

    model: torch.dtype  # what weights are rounded to when loaded
    weights: torch.dtype  # how a backend stores them: the same values
    rows: torch.dtype  # what enters a linear
    pages: torch.dtype  # K and V as they are kept
    stream: torch.dtype  # what leaves a linear, and the residual stream
    block_rows: torch.dtype  # what rows are rounded to before they meet weights in blocks, but for the head's


def choose_dtypes(
    backend: Backend, model: str, activations: str | None = None, kv_cache: KvCacheDtype = "auto"
) -> Dtypes:
    """Dtypes for a model's dtype and, where given, others for the rows and the pages. Raises ModelError.

    ``activations``: int8 leaves rows in the model's dtype up to the linears whose weights are in blocks.
    """
    rounds = activations == "int8"
    row_name = model if rounds or activations is None else activations
    for name in (model, row_name):
        check_dtype(name)
    weights = backend.storage_dtype(DTYPES[model])
    rows = backend.storage_dtype(DTYPES[row_name])
    if rounds and not backend.multiplies_int8_rows:
        raise ModelError("activations in int8: only the cpu backend multiplies them, on processors with AVX2")
    if rows not in backend.row_dtypes(weights):
        raise ModelError(
            f"activations in {activations} beside weights in {model}: this backend cannot multiply the two"
        )
    pages = rows if kv_cache == "auto" else FP8
    stream = backend.stream_dtype(DTYPES[model])
    return Dtypes(DTYPES[model], weights, rows, pages, stream, torch.int8 if rounds else rows)


def kv_cache_name(pages: torch.dtype) -> str:
    """The pages' dtype as --kv-cache-dtype calls it."""
    return "fp8_e4m3fn" if pages == FP8 else str(pages).removeprefix("torch.")
