"""Attention over several segments of positions on the CPU: the same bits however the work was divided."""

from itertools import pairwise

import pytest
import torch

from headwater.kernels import load_backend

from .attention_case import Case, Options, assert_close

cpu = load_backend("cpu")
LENGTH = 1150  # two whole segments and a part of one
COMPANY = 9  # enough that a sequence's heads stay together while its segments are divided


def make(dtype: torch.dtype, page_size: int, options: Options) -> Case:
    torch.manual_seed(0)
    q_dtype = torch.bfloat16 if dtype == torch.float8_e4m3fn else None
    return Case(cpu, dtype, 3, 64, page_size, [LENGTH] * COMPANY, options, q_dtype)


def alone(start: int, end: int) -> list[tuple[int, int]]:
    """Rows of the first sequence, none of the others."""
    return [(start, end), *[(0, 0)] * (COMPANY - 1)]


@pytest.mark.parametrize(
    ("dtype", "page_size", "options", "tolerance"),
    [
        (torch.float32, 16, Options(), 1e-6),
        (torch.float32, 48, Options(window=600, softcap=20.0, sinks=True), 1e-6),
        (torch.bfloat16, 16, Options(window=30), 5e-3),
        (torch.bfloat16, 16, Options(sinks=True), 5e-3),
        (torch.bfloat16, 1024, Options(), 5e-3),
        (torch.float8_e4m3fn, 32, Options(window=700, k_scale=0.02, v_scale=0.5), 8e-3),
    ],
    ids=str,
)
def test_rows_alone_in_chunks_and_in_company_have_the_same_bits(
    dtype: torch.dtype, page_size: int, options: Options, tolerance: float
) -> None:
    case = make(dtype, page_size, options)
    whole = case.step([(0, LENGTH)] * COMPANY)
    assert_close(whole[0], case.oracle(0), tolerance)

    case = make(dtype, page_size, options)
    edges = [0, 13, 700, 1019, 1020, 1027, 1140, *range(1141, LENGTH + 1)]
    parts = [case.step(alone(start, end))[0] for start, end in pairwise(edges)]
    assert torch.equal(torch.cat(parts), whole[0]), "in chunks, then one row at a time"

    case = make(dtype, page_size, options)
    case.step([(0, LENGTH - 1)] * COMPANY)
    together = case.step([(LENGTH - 1, LENGTH)] * COMPANY)
    for row, expected in zip(together, whole, strict=True):
        assert torch.equal(row[0], expected[-1]), "one row each, together"
