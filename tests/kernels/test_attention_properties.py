"""Attention over pages, whatever the shapes: both backends against the formula, cut into chunks anywhere."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.kernels import Backend, load_backend

from .attention_case import Case, Options, assert_close

OPTIONS = st.builds(
    Options,
    window=st.sampled_from([0, 0, 1, 5, 16, 40]),
    softcap=st.sampled_from([0.0, 0.0, 15.0]),
    qk_norm=st.booleans(),
    sinks=st.booleans(),
)
SHAPES = st.fixed_dictionaries(
    {
        "group": st.integers(1, 16),
        "head_dim": st.sampled_from([64, 80, 96, 128]),
        "page_size": st.sampled_from([16, 32, 64]),
        "options": OPTIONS,
    }
)
Steps = list[tuple[int, int]]  # of each sequence, the tokens of the first step and of the second


def check(backend: Backend, steps: Steps, shape: dict) -> None:
    case = Case(backend, torch.float32, lengths=[first + second for first, second in steps], **shape)
    parts = (
        case.step([(0, first) for first, _ in steps]),
        case.step([(first, first + second) for first, second in steps]),
    )
    for sequence in range(len(steps)):
        assert_close(torch.cat([part[sequence] for part in parts]), case.oracle(sequence), 2e-6)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 40)), min_size=1, max_size=5), shape=SHAPES)
def test_cpu(steps: Steps, shape: dict) -> None:
    check(load_backend("cpu"), steps, shape)


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 12)), min_size=1, max_size=2), shape=SHAPES)
def test_triton(steps: Steps, shape: dict) -> None:
    check(load_backend("triton"), steps, shape)
