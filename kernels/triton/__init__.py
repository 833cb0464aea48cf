"""The Triton backend: the functions of ``Backend`` and, beside them, what only some models or a GPU need."""

import torch

from .activation import gelu_tanh_and_mul, silu_and_mul
from .attention import paged_attention
from .attention_plan import AttentionPlan, fill_plan, new_plan, plan_attention
from .linear import QuantizedLinear, pack_linear, quantize_linear
from .norm import add_rms_norm, rms_norm
from .rope import QkNorm, rope_and_write
from .sample import sample

__all__ = [
    "AttentionPlan",
    "QkNorm",
    "QuantizedLinear",
    "add_rms_norm",
    "fill_plan",
    "gelu_tanh_and_mul",
    "new_plan",
    "pack_linear",
    "paged_attention",
    "plan_attention",
    "quantize_linear",
    "rms_norm",
    "rope_and_write",
    "row_dtypes",
    "sample",
    "silu_and_mul",
    "storage_dtype",
    "stream_dtype",
]


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The model's own."""
    return dtype


def row_dtypes(weight_dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The weights' own: tensor cores multiply equals."""
    return (weight_dtype,)


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """The model's own; sums inside a kernel are fp32."""
    return dtype
