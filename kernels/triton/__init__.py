"""The Triton backend: the functions of ``Backend`` and, beside them, what only some models or a GPU need."""

import torch

from .activation import act, clamped_silu_and_mul, gelu_tanh_and_mul, silu_and_mul, xielu
from .adapters import new_adapters
from .attention import paged_attention
from .attention_plan import AttentionPlan, fill_plan, new_plan, plan_attention
from .block_linear import pack_blocks
from .exchange import new_exchange
from .grouped import group_linears
from .layer_norm import add_layer_norm, layer_norm
from .linear import TritonLinear, logits, pack_linear, pack_quantized, pack_vendor_linear, quantize_linear
from .logprobs import token_logprobs
from .norm import add_rms_norm, rms_norm
from .program import Event, capture, numerics, release_recordings
from .rope import QkNorm, rope_and_write
from .route import combine, route, weigh
from .rows import add, cast, copy, copy_boxes, count_tokens, embed, scale, soft_cap, take_rows, take_tokens
from .sample import sample

__all__ = [
    "AttentionPlan",
    "Event",
    "QkNorm",
    "TritonLinear",
    "act",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "capture",
    "cast",
    "clamped_silu_and_mul",
    "combine",
    "copy",
    "copy_boxes",
    "count_tokens",
    "embed",
    "fill_plan",
    "gelu_tanh_and_mul",
    "group_linears",
    "keeps_page_tables",
    "layer_norm",
    "logits",
    "new_adapters",
    "new_exchange",
    "new_plan",
    "numerics",
    "pack_blocks",
    "pack_linear",
    "pack_quantized",
    "pack_vendor_linear",
    "paged_attention",
    "plan_attention",
    "quantize_linear",
    "records_any_size",
    "release_recordings",
    "rms_norm",
    "rope_and_write",
    "route",
    "row_dtypes",
    "sample",
    "scale",
    "silu_and_mul",
    "soft_cap",
    "storage_dtype",
    "stream_dtype",
    "take_rows",
    "take_tokens",
    "token_logprobs",
    "weigh",
    "xielu",
]


records_any_size = False
keeps_page_tables = True
multiplies_int8_rows = False


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The model's own."""
    return dtype


def row_dtypes(weight_dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The weights' own: tensor cores multiply equals."""
    return (weight_dtype,)


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """The model's own; sums inside a kernel are fp32."""
    return dtype
