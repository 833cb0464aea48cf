"""Linears and embeddings with block-quantised weights against the described weights in float64."""

import torch

from ....kernels.block_weight import BlockWeight
from ....kernels.triton import embed
from ....kernels.triton.block_linear import BlockLinear
from ..blocks import BLOCK_KINDS, made_up_blocks
from .setup import Results, Setup, compare, equal

_COMMON = ("Q4_K", "GPTQ")


def check_blocks(setup: Setup) -> Results:
    """Common kinds in all tiles, several parts of two forms with a bias, and a row alone."""
    inputs, outputs = (512, 72) if setup.tiny else (2048, 1032)
    for kind in _COMMON:
        yield from _check_kind(setup, kind, (1, 12, 20) if setup.tiny else (1, 8, 16, 32, 64, 300))
    parts = [_made_up(setup, kind, outputs, inputs) for kind in ("Q4_K", "Q4_K", "Q6_K")]
    bias, x = setup.randn(3 * outputs), setup.randn(5, inputs)
    weight = torch.cat([part.dequantized() for part in parts]).double()
    linear = BlockLinear(parts, bias, setup.device)
    got = linear(x)
    yield compare("blocks of two forms, with a bias", got, x.double() @ weight.T + bias.double())
    yield equal("blocks of two forms: a row alone", linear(x[3:4].clone()), got[3:4])
    yield equal("blocks of two forms: again", linear(x), got)


def check_other_blocks(setup: Setup) -> Results:
    """The other kinds, few and many rows."""
    for kind in BLOCK_KINDS:
        if kind not in _COMMON:
            yield from _check_kind(setup, kind, (3,) if setup.tiny else (5, 70))


def _check_kind(setup: Setup, kind: str, row_counts: tuple[int, ...]) -> Results:
    inputs, outputs = (512, 72) if setup.tiny else (2048, 1032)
    weight = _made_up(setup, kind, outputs, inputs)
    linear, dense = BlockLinear([weight], None, setup.device), weight.dequantized().double()
    for rows in row_counts:
        x = setup.randn(rows, inputs, seed=rows)
        yield compare(f"{kind} linear {rows} x {inputs} -> {outputs}", linear(x), x.double() @ dense.T)
    token_ids = torch.tensor([0, outputs - 1, 7, 7], device=setup.device)
    yield compare(f"{kind} embedding", embed(linear, token_ids, 0.5, setup.dtype), dense[token_ids] * 0.5)


def _made_up(setup: Setup, kind: str, outputs: int, inputs: int) -> BlockWeight:
    torch.manual_seed(0)
    return made_up_blocks(kind, outputs, inputs, setup.device)
