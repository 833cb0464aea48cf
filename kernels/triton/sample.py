"""Sampling: token = argmax over the allowed set of (processed logit + noise), three launches for a whole batch.

The contract is ``SamplingBatch``'s; ``kernels/exact.py`` says what is computed bit for bit.

- *tiles*, one program per (row, tile): reads the logits once, processes them, keeps the tile's maximum, sum of
  exponentials and best noised token. Rows with a bounded allowed set get no noise yet: their processed logits are
  written back, with the maximum of each group of GROUP tokens.
- *masses*, PARTS programs per row with top-p and without top-k: a part's weights by pivot, for the bound of its edge.
- *rows*, one program per row: merges the tiles. That ends greedy and plain sampling. For top-k the k-th best group
  bounds the k-th best token, for top-p and typical-p the weights by pivot bound the edge; what lies within the bound is
  compacted into a list, of groups alone that have any of it, and exact edges, weight and noise are taken from the list.
  A set too large for the list (flat distributions) takes the same steps over the row itself, slower.

The log-probability needs the weight of the whole set, so the edges are found in any case; verifying noised candidates
one by one would only find the token. No host sync, no sort of the vocabulary, no scratch allocated twice.
"""

from typing import NamedTuple

import torch
import triton

from ..sampling_batch import Sampled, SamplingBatch
from .sample_masses import masses_kernel
from .sample_rows import rows_kernel
from .sample_sets import PIVOTS
from .sample_tiles import TILE_WORDS, tiles_kernel

TILE = 1024  # tokens per program of the first kernel
GROUP = 64  # tokens per maximum: 500 groups in a vocabulary of 32000, so every top-k up to 256 has its bound there
CAPACITY = 8192  # tokens of a row's list
PARTS = 16  # programs that share a row's weights
TILES_WARPS = 4
ROWS_WARPS = 8


class _Scratch(NamedTuple):
    """What the first kernel leaves for the second, and the lists; shapes as there."""

    tiles: torch.Tensor
    groups: torch.Tensor
    list_z: torch.Tensor
    list_ids: torch.Tensor
    near: torch.Tensor
    masses: torch.Tensor
    totals: torch.Tensor
    z: torch.Tensor | None  # where processed logits go if the raw ones are needed to the end


_made: dict[tuple[int, bool, torch.device], list[_Scratch]] = {}  # by vocabulary, fullness and device; largest last


def _scratch(rows: int, vocab: int, full: bool, device: torch.device) -> _Scratch:
    """One scratch for all batches up to the largest seen; smaller ones stay, since a captured graph may use them."""
    made = _made.setdefault((vocab, full, device), [])
    if not made or len(made[-1].tiles) < rows:
        made.append(_new_scratch(triton.next_power_of_2(rows), vocab, full, device))
    return made[-1]


def _new_scratch(rows: int, vocab: int, full: bool, device: torch.device) -> _Scratch:
    num_tiles = triton.cdiv(vocab, TILE)
    return _Scratch(
        tiles=torch.empty((rows, TILE_WORDS.value, num_tiles), device=device),
        groups=torch.empty((rows, 2, num_tiles * (TILE // GROUP)), device=device),
        list_z=torch.empty((rows, CAPACITY), device=device),
        list_ids=torch.empty((rows, CAPACITY), dtype=torch.int32, device=device),
        near=torch.empty((rows, num_tiles * (TILE // GROUP)), dtype=torch.int32, device=device),
        masses=torch.empty((rows, PARTS, PIVOTS.value), device=device),
        totals=torch.empty((rows, PARTS), dtype=torch.int64, device=device),
        z=torch.empty((rows, vocab), device=device) if full else None,
    )


def sample(logits: torch.Tensor, batch: SamplingBatch, out: Sampled | None = None) -> Sampled:
    """Draw one token per row.

    Args:
        logits: fp32 [rows, vocab], contiguous; may be overwritten with the processed logits.
        batch: how to sample each row.
        out: where to write the result.

    Returns:
        ``out``, or a new one.
    """
    rows, vocab = logits.shape
    num_tiles, stride = triton.cdiv(vocab, TILE), batch.fields.shape[1]
    scratch = _scratch(rows, vocab, batch.full, logits.device)
    z = logits if scratch.z is None else scratch.z
    out = out or Sampled.empty(rows, logits.device)
    tiles_kernel[(rows, num_tiles)](
        logits, z, batch.fields, batch.token_counts, batch.output_counts, batch.bias_ids, batch.bias_values,
        batch.grammar_bits, scratch.tiles, scratch.groups, stride, vocab, num_tiles,
        FULL=batch.full, TILE=TILE, GROUP=GROUP, num_warps=TILES_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    tiles = triton.next_power_of_2(num_tiles)
    masses_kernel[(rows, PARTS)](
        z, batch.fields, scratch.tiles, scratch.masses, scratch.totals, stride, vocab, num_tiles,
        FULL=batch.full, TILES=tiles, PARTS=PARTS, num_warps=ROWS_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    rows_kernel[(rows,)](
        logits, z, batch.fields, *scratch[:7], out.token_ids, out.logprobs, out.top_ids, out.top_logprobs,
        stride, vocab, num_tiles,
        FULL=batch.full, TILES=tiles, TILE_GROUPS=TILE // GROUP, GROUP=GROUP, PARTS=PARTS, CAPACITY=CAPACITY,
        num_warps=ROWS_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out
