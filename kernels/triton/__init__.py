"""The Triton backend: the functions of ``Backend`` and, beside them, what only some models or a GPU need."""

from .activation import gelu_tanh_and_mul, silu_and_mul
from .attention import paged_attention
from .attention_plan import AttentionPlan, new_plan, plan_attention
from .linear import pack_linear
from .norm import add_rms_norm, rms_norm
from .rope import QkNorm, rope_and_write

__all__ = [
    "AttentionPlan",
    "QkNorm",
    "add_rms_norm",
    "gelu_tanh_and_mul",
    "new_plan",
    "pack_linear",
    "paged_attention",
    "plan_attention",
    "rms_norm",
    "rope_and_write",
    "silu_and_mul",
]
