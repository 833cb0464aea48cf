"""Sampling: token = argmax over the allowed set of (processed logit + noise), two launches for a whole batch.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit.

- *tiles*, one program per (row, tile): reads the logits once, processes them, keeps the tile's maximum, sum of
  exponentials and best noised token. Rows with a bounded allowed set get no noise yet: their processed logits are
  written back, with the maximum of each group of GROUP tokens.
- *rows*, one program per row: merges the tiles. That ends greedy and plain sampling. For top-k the k-th best group
  bounds the k-th best token, for top-p and typical-p a pass of weights by pivot bounds the edge; what lies within the
  bound is compacted into a list, and exact edges, weight and noise are taken from the list alone. A set too large for
  the list (flat distributions) takes the same steps over the row itself, slower.

The log-probability needs the weight of the whole set, so the edges are found in any case; verifying noised candidates
one by one would only find the token. No host sync, no sort of the vocabulary, no scratch allocated twice.
"""

from typing import NamedTuple

import torch
import triton

from .. import TOP_WIDTH, Sampled, SamplingBatch, TopTokens, exact
from .sample_rows import rows_kernel
from .sample_tiles import tiles_kernel

TILE = 1024  # tokens per program of the first kernel
GROUP = 64  # tokens per maximum: 500 groups in a vocabulary of 32000, so every top-k up to 256 has its bound there
CAPACITY = 8192  # tokens of a row's list
CHUNK = 1024  # tokens per iteration over a row or list
WIDE = 4096  # tokens per iteration where a list is filled
TILES_WARPS = 4
ROWS_WARPS = 8


class _Scratch(NamedTuple):
    """What the first kernel leaves for the second (see ``tiles_kernel``), and the lists."""

    tile_max: torch.Tensor
    tile_sum: torch.Tensor
    tile_score: torch.Tensor
    tile_token: torch.Tensor
    tile_logit: torch.Tensor
    group_max: torch.Tensor
    raw_max: torch.Tensor | None
    raw_sum: torch.Tensor | None
    raw_group_max: torch.Tensor | None
    list_z: torch.Tensor
    list_ids: torch.Tensor
    z: torch.Tensor | None  # where processed logits go if the raw ones are needed to the end


_made: dict[tuple[int, bool, torch.device], list[_Scratch]] = {}  # by vocabulary, details and device; largest last


def _scratch(rows: int, vocab: int, details: bool, device: torch.device) -> _Scratch:
    """One scratch for all batches up to the largest seen; smaller ones stay, since a captured graph may use them."""
    made = _made.setdefault((vocab, details, device), [])
    if not made or len(made[-1].tile_max) < rows:
        made.append(_new_scratch(triton.next_power_of_2(rows), vocab, details, device))
    return made[-1]


def _new_scratch(rows: int, vocab: int, details: bool, device: torch.device) -> _Scratch:
    def empty(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty((rows, width), dtype=dtype, device=device)

    num_tiles = triton.cdiv(vocab, TILE)
    groups = num_tiles * (TILE // GROUP)
    return _Scratch(
        tile_max=empty(num_tiles),
        tile_sum=empty(num_tiles),
        tile_score=empty(num_tiles),
        tile_token=empty(num_tiles, torch.int32),
        tile_logit=empty(num_tiles),
        group_max=empty(groups),
        raw_max=empty(num_tiles) if details else None,
        raw_sum=empty(num_tiles) if details else None,
        raw_group_max=empty(groups) if details else None,
        list_z=empty(CAPACITY),
        list_ids=empty(CAPACITY, torch.int32),
        z=empty(vocab) if details else None,
    )


def new_sampled(rows: int, details: bool, device: torch.device) -> Sampled:
    def empty(dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(rows, dtype=dtype, device=device)

    def top() -> TopTokens:
        ids = torch.empty((rows, TOP_WIDTH), dtype=torch.int64, device=device)
        return TopTokens(ids, torch.empty((rows, TOP_WIDTH), device=device))

    ids, logprobs = empty(torch.int64), empty(torch.float32)
    if not details:
        return Sampled(ids, logprobs)
    return Sampled(ids, logprobs, empty(torch.int32), empty(torch.float32), empty(torch.int32), top(), top())


def sample(logits: torch.Tensor, batch: SamplingBatch, out: Sampled | None = None) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; may be overwritten with the processed logits.
        batch: how to sample each row.
        out: where to write the result; with all fields if ``batch.top_n`` is given.

    Returns:
        The tokens and their log-probabilities, and the rest of Sampled if ``batch.top_n`` is given.
    """
    rows, vocab = logits.shape
    device = logits.device
    details = batch.top_n is not None
    num_tiles = triton.cdiv(vocab, TILE)
    num_groups = num_tiles * (TILE // GROUP)
    scratch = _scratch(rows, vocab, details, device)
    z = logits if scratch.z is None else scratch.z
    whole = out or new_sampled(rows, details, device)
    # Only what is written: each set of fields is compiled once.
    out = whole if details else Sampled(whole.token_ids, whole.logprobs)
    tiles_kernel[(rows, num_tiles)](
        logits,
        z,
        batch.greedy,
        batch.temperature,
        batch.top_k,
        batch.top_p,
        batch.min_p,
        batch.typical_p,
        batch.repetition_penalty,
        batch.frequency_penalty,
        batch.output_frequency_penalty,
        batch.presence_penalty,
        batch.seeds,
        batch.positions,
        batch.seen,
        batch.token_counts,
        batch.output_counts,
        batch.bias_start,
        batch.bias_ids,
        batch.bias_values,
        batch.grammar,
        batch.grammar_bits,
        batch.watermark,
        *scratch[:9],
        vocab,
        num_tiles,
        WATERMARK_THRESHOLD=exact.watermark_threshold(batch.watermark_gamma),
        WATERMARK_DELTA=batch.watermark_delta,
        DETAILS=details,
        TILE=TILE,
        GROUP=GROUP,
        num_warps=TILES_WARPS,
        enable_fp_fusion=False,
    )
    rows_kernel[(rows,)](
        logits,
        z,
        batch.greedy,
        batch.top_k,
        batch.top_p,
        batch.min_p,
        batch.typical_p,
        batch.seeds,
        batch.positions,
        batch.top_n,
        *scratch[:11],
        out.token_ids,
        out.logprobs,
        out.ranks,
        out.raw_logprobs,
        out.raw_ranks,
        out.top and out.top.ids,
        out.top and out.top.logprobs,
        out.raw_top and out.raw_top.ids,
        out.raw_top and out.raw_top.logprobs,
        vocab,
        num_tiles,
        num_groups,
        DETAILS=details,
        TILES=triton.next_power_of_2(num_tiles),
        GROUPS=triton.next_power_of_2(num_groups),
        CAPACITY=CAPACITY,
        CHUNK=CHUNK,
        WIDE=WIDE,
        WIDTH=TOP_WIDTH,
        num_warps=ROWS_WARPS,
        enable_fp_fusion=False,
    )
    return whole
