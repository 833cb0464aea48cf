"""What the kernels ask of the processor, in one place."""

import os

import numba
from llvmlite import binding

_FEATURES = binding.get_host_cpu_features()

HAS_BF16_DOT = bool(_FEATURES.get("avx512bf16", False))  # vdpbf16ps
HAS_BYTE_DOT = bool(_FEATURES.get("avx512vnni", False))  # vpdpbusd, of 16 lanes
# vpermw: a table of 32 or 64 codes' values is one or two registers.
HAS_WORD_LOOKUP = bool(_FEATURES.get("avx512bw", False))
# vpshufb: a table of 16 codes' values, bytes, is one register.
HAS_BYTE_LOOKUP = bool(_FEATURES.get("avx2", False))
# Of 16 lanes. Else 16 of 8 lanes: a vector of 16 lanes is two of them.
HAS_32_REGISTERS = bool(_FEATURES.get("avx512f", False))
HAS_AMX_BF16 = bool(_FEATURES.get("amx-tile", False) and _FEATURES.get("amx-bf16", False))


def numerics() -> str:
    """See Backend: fused operations and the order of sums are chosen by the processor's instructions."""
    name, amx = binding.get_host_cpu_name(), os.environ.get("HEADWATER_AMX", "")
    return f"numba {numba.__version__} on {name}{_FEATURES.flatten()} HEADWATER_AMX={amx}"
