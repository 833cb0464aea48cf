"""The CPU backend, in Numba: what serves where there is no GPU, and what every test runs on."""

import torch

from .activation import gelu_tanh_and_mul, silu_and_mul
from .attention import fill_plan, new_plan, paged_attention
from .linear import pack_linear, quantize_linear
from .norm import add_rms_norm, rms_norm
from .rope_write import rope_and_write
from .sample import sample
from .threads import use_tbb

__all__ = [
    "add_rms_norm",
    "fill_plan",
    "gelu_tanh_and_mul",
    "new_plan",
    "pack_linear",
    "paged_attention",
    "quantize_linear",
    "rms_norm",
    "rope_and_write",
    "row_dtypes",
    "sample",
    "silu_and_mul",
    "storage_dtype",
    "stream_dtype",
]

use_tbb()


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """bf16 stays; fp16 is widened to fp32: the same values, since no CPU of ours multiplies fp16."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def row_dtypes(weight_dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The weights' own, or fp32 beside bf16: then products are exact, at half the speed of bf16's where
    arithmetic is the limit and not memory.
    """
    return (weight_dtype, torch.float32)


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 whatever the model's dtype."""
    del dtype
    return torch.float32
