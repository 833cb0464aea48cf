"""Every kind of block of a GGUF becomes the description of the same weights, to the last bit."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from headwater.engine.checkpoint.gguf_blocks import READERS, block_weight


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_blocks_are_described_as_the_reference_dequantises_them(kind: GGMLQuantizationType) -> None:
    block_bytes, _ = READERS[kind]
    stored = np.random.default_rng(0).integers(0, 256, (40, 3 * block_bytes), dtype=np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        want = torch.from_numpy(dequantize(stored, kind).astype(np.float32))
    weight = block_weight(stored, kind)
    assert weight is not None
    got = weight.dequantized()
    usable = torch.isfinite(want)  # random scales may be none
    assert usable.float().mean() > 0.5
    assert torch.equal(got[usable], want[usable])
    rows = torch.tensor([7, 3, 3])
    assert torch.equal(torch.nan_to_num(weight.take(rows).dequantized()), torch.nan_to_num(got[rows]))


def test_floats_and_unknown_kinds_are_no_blocks() -> None:
    for kind in (GGMLQuantizationType.F32, GGMLQuantizationType.BF16, GGMLQuantizationType.IQ2_XXS):
        assert block_weight(np.zeros((1, 1024), np.uint8), kind) is None
