"""The sampler's launches, for compiling them without a GPU: with nothing optional, and with everything."""

from typing import NamedTuple

import triton

from .. import TOP_WIDTH, exact
from .sample import CAPACITY, CHUNK, GROUP, ROWS_WARPS, TILE, TILES_WARPS, WIDE
from .sample_rows import rows_kernel
from .sample_tiles import tiles_kernel

_VOCAB = 128256  # Llama 3


class Launch(NamedTuple):
    """One specialisation, as ``triton.compiler.ASTSource`` and ``triton.compile`` take it."""

    name: str
    kernel: triton.JITFunction
    signature: dict[str, str]
    constexprs: dict[str, object]
    attrs: dict[tuple[int], list[list[object]]]
    options: dict[str, object]


_TYPES = {
    "greedy_ptr": "*i1",
    "vocab": "i32",
    "num_tiles": "i32",
    "num_groups": "i32",
    **dict.fromkeys(("seeds_ptr", "positions_ptr", "watermark_ptr", "token_ids_ptr"), "*i64"),
    **dict.fromkeys(("top_ids_ptr", "raw_top_ids_ptr"), "*i64"),
    **dict.fromkeys(("top_k_ptr", "top_n_ptr", "seen_ptr", "token_counts_ptr", "output_counts_ptr"), "*i32"),
    **dict.fromkeys(("bias_start_ptr", "bias_ids_ptr", "grammar_ptr", "grammar_bits_ptr"), "*i32"),
    **dict.fromkeys(("tile_token_ptr", "list_ids_ptr", "ranks_ptr", "raw_ranks_ptr"), "*i32"),
}  # everything else is *fp32
_ALIGNED_INTEGERS = ("vocab", "num_groups")  # multiples of 16 here; pointers are aligned to 16 bytes
_OPTIONAL = (
    *("min_p_ptr", "typical_p_ptr", "frequency_penalty_ptr", "output_frequency_penalty_ptr", "presence_penalty_ptr"),
    *("output_counts_ptr", "bias_start_ptr", "bias_ids_ptr", "bias_values_ptr", "grammar_ptr", "grammar_bits_ptr"),
    *("watermark_ptr", "top_n_ptr", "raw_max_ptr", "raw_sum_ptr", "raw_group_max_ptr", "ranks_ptr", "raw_logprobs_ptr"),
    *("raw_ranks_ptr", "top_ids_ptr", "top_logprobs_ptr", "raw_top_ids_ptr", "raw_top_logprobs_ptr"),
)


def _launch(name: str, kernel: triton.JITFunction, full: bool, constexprs: dict[str, object], warps: int) -> Launch:
    names = kernel.arg_names
    constexprs = {**constexprs, "DETAILS": full}
    if not full:
        constexprs |= {argument: None for argument in names if argument in _OPTIONAL}
    signature = {n: "constexpr" if n in constexprs else _TYPES.get(n, "*fp32") for n in names}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith("*") or n in _ALIGNED_INTEGERS
    }
    return Launch(name, kernel, signature, constexprs, attrs, {"num_warps": warps, "enable_fp_fusion": False})


def _launches(full: bool) -> list[Launch]:
    suffix = "full" if full else "plain"
    num_tiles = triton.cdiv(_VOCAB, TILE)
    tiles: dict[str, object] = {
        "WATERMARK_THRESHOLD": exact.watermark_threshold(0.5),
        "WATERMARK_DELTA": 2.0,
        "TILE": TILE,
        "GROUP": GROUP,
    }
    rows: dict[str, object] = {
        "TILES": triton.next_power_of_2(num_tiles),
        "GROUPS": triton.next_power_of_2(num_tiles * (TILE // GROUP)),
        "CAPACITY": CAPACITY,
        "CHUNK": CHUNK,
        "WIDE": WIDE,
        "WIDTH": TOP_WIDTH,
    }
    return [
        _launch(f"sample_tiles_{suffix}", tiles_kernel, full, tiles, TILES_WARPS),
        _launch(f"sample_rows_{suffix}", rows_kernel, full, rows, ROWS_WARPS),
    ]


AUDITED = _launches(full=False) + _launches(full=True)
