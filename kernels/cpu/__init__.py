"""The CPU backend, in Numba: what serves where there is no GPU, and what every test runs on."""

import torch

from .. import Linear
from .activation import act, clamped_silu_and_mul, gelu_tanh_and_mul, silu_and_mul, xielu
from .adapters import new_adapters
from .attention import fill_plan, new_plan, paged_attention
from .block_linear import pack_blocks
from .elementwise import add, cast, scale
from .exchange import new_exchange
from .features import SET, numerics
from .grouped import group_linears
from .layer_norm import add_layer_norm, layer_norm
from .linear import pack_linear, pack_quantized, quantize_linear
from .logprobs import token_logprobs
from .norm import add_rms_norm, rms_norm
from .op_graph import Event, capture, release_recordings
from .rope_write import rope_and_write
from .route import combine, route, weigh
from .rows import copy, copy_boxes, count_tokens, embed, soft_cap, take_rows, take_tokens
from .sample import sample

__all__ = [
    "Event",
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
    "multiplies_int8_rows",
    "new_adapters",
    "new_exchange",
    "new_plan",
    "numerics",
    "pack_blocks",
    "pack_linear",
    "pack_quantized",
    "paged_attention",
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


records_any_size = True
keeps_page_tables = False
multiplies_int8_rows = SET.byte_dot is not None


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """bf16 stays; fp16 is widened to fp32: the same values, since no CPU of ours multiplies fp16."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def row_dtypes(weight_dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The weights' own, or fp32 beside bf16: then products are exact, at half the speed of bf16's where
    arithmetic is the limit and not memory.
    """
    return (weight_dtype, torch.float32)


def logits(head: Linear, x: torch.Tensor) -> torch.Tensor:
    """What ``head`` makes of rows [rows, in]: it is in fp32, as the stream."""
    return head(x)


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 whatever the model's dtype."""
    del dtype
    return torch.float32
