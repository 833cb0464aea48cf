"""The sampler of both backends against the plain one, token for token."""

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.bench.device.gpu.check_sampling import (
    compare_with_plain,
    every_kind,
    model_like,
    plain_batch,
    random_case,
    row_of,
)
from headwater.bench.device.gpu.sampling_oracle import allowed, noise, process
from headwater.kernels.cpu.sample import sample as cpu
from headwater.kernels.sampling_batch import PROCESSED, RAW, TOP_WIDTH, SamplingBatch
from headwater.kernels.triton.sample import sample as triton

triton_module = importlib.import_module("headwater.kernels.triton.sample")  # the package's ``sample`` is the function
backends = pytest.mark.parametrize("sample", [cpu, triton], ids=["cpu", "triton"])


def check(sample, logits: torch.Tensor, batch: SamplingBatch) -> None:
    """Equal tokens and lists; logprobs within the rounding of fp32."""
    for comparison in compare_with_plain("sampled", sample(logits.clone(), batch), logits, batch):
        assert comparison.holds, comparison


@st.composite
def cases(draw, vocabs: tuple[int, ...], max_rows: int = 3) -> tuple[torch.Tensor, SamplingBatch]:
    chance = draw(st.randoms(use_true_random=False))
    return random_case(chance, draw(st.sampled_from(vocabs)), draw(st.integers(1, max_rows)))


@settings(max_examples=150, deadline=None)
@given(cases(vocabs=(1, 3, 17, 64, 130, 1000, 3000)))
def test_cpu_equals_the_oracle(case):
    check(cpu, *case)


@settings(max_examples=20, deadline=None)
@given(cases(vocabs=(1, 17, 130, 1100), max_rows=2))
def test_triton_equals_the_oracle(case):
    check(triton, *case)


@settings(max_examples=10, deadline=None)
@given(cases(vocabs=(130, 1100), max_rows=1))
def test_triton_without_room_for_its_list(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_module, "CAPACITY", 16)
        patch.setattr(triton_module, "_made", {})
        check(triton, *case)


@pytest.mark.parametrize("vocab", [32000, 262144])
def test_cpu_over_whole_vocabularies(vocab):
    check(cpu, model_like(8, vocab), every_kind(vocab))


def test_triton_over_a_whole_vocabulary():
    check(triton, model_like(8, 12000), every_kind(12000))  # the interpreter is slow


@backends
def test_ties_go_to_the_lowest_id_and_stay_together(sample):
    logits = torch.full((3, 200), -3.0)
    logits[:, [150, 40, 70]] = 2.0
    batch = plain_batch(3, 200, full=True)
    batch["greedy"][0] = 1
    batch["top_k"][1] = 2
    batch["top_p"][2] = 0.5
    batch["top_n"][:] = 20
    got = sample(logits, batch)
    assert got.token_ids[0] == 40
    for row in (1, 2):
        assert [i for i in got.top_ids[row, PROCESSED].tolist() if i >= 0] == [40, 70, 150]
        assert got.top_logprobs[row, PROCESSED, :3].exp().tolist() == pytest.approx([1 / 3] * 3)


@backends
def test_best_tokens_include_ties_at_the_cut_off(sample):
    logits = torch.zeros(1, 100)
    logits[0, 7], logits[0, [3, 50, 90]] = 5.0, 4.0
    batch = plain_batch(1, 100, full=True)
    batch["top_n"][:] = 2
    assert [i for i in sample(logits, batch).top_ids[0, RAW].tolist() if i >= 0] == [7, 3, 50, 90]
    flat = sample(torch.zeros(1, 100), batch)
    assert flat.top_ids[0, RAW].tolist() == list(range(TOP_WIDTH))  # as many as there is room for


@backends
@pytest.mark.parametrize("greedy", [True, False])
def test_one_or_no_token_left(sample, greedy):
    logits = torch.full((3, 90), -torch.inf)
    logits[0, 77] = -5.0
    logits[2] = torch.nan
    batch = plain_batch(3, 90)
    batch["greedy"][:] = greedy
    batch["top_p"][:] = 0.9
    got = sample(logits, batch)
    assert got.token_ids.tolist() == [77, 0, 0]
    assert got.logprobs[:, PROCESSED].tolist() == [0.0, -torch.inf, -torch.inf]


@backends
def test_all_logits_equal(sample):
    batch = plain_batch(2, 70)
    batch["greedy"][0] = 1
    got = sample(torch.zeros(2, 70), batch)
    assert got.token_ids[0] == 0
    assert got.token_ids[1] == noise(8, 3, 70).argmax()
    assert got.logprobs[:, PROCESSED].tolist() == pytest.approx([-math.log(70)] * 2)


@backends
@settings(max_examples=5, deadline=None)
@given(case=cases(vocabs=(130,)))
def test_a_row_does_not_depend_on_its_batch(sample, case):
    logits, batch = case
    together = sample(logits.clone(), batch)
    for row in range(len(logits)):
        alone = sample(logits[row : row + 1].clone(), row_of(batch, row))
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0, PROCESSED] == together.logprobs[row, PROCESSED]  # bit for bit


def test_draws_follow_the_distribution():
    """Chi-squared of 100 000 draws, one seed; 15 degrees of freedom exceed 44.3 once in 10 000."""
    draws = 100_000
    logits = torch.linspace(-3, 2, 16)
    batch = plain_batch(draws, 16)
    batch.set_seeds(torch.full((draws,), 2024))
    batch["position"][:] = torch.arange(draws)
    counts = cpu(logits.repeat(draws, 1), batch).token_ids.bincount(minlength=16)
    expected = logits.double().softmax(0) * draws
    assert ((counts - expected) ** 2 / expected).sum() < 44.3


def test_seeds_of_64_bits_differ_in_every_bit():
    batch = plain_batch(65, 50_000)
    batch.set_seeds(torch.tensor([0] + [1 << bit if bit < 63 else -(2**63) for bit in range(64)]))
    assert cpu(torch.zeros(65, 50_000), batch).token_ids.unique().numel() > 60


def tgi_top_p(logits: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """Tokens that TGI's TopPLogitsWarper keeps, and how far the nearest running weight is from the edge."""
    values, order = logits.sort()
    weight = values.softmax(0).cumsum(0)
    keep = torch.zeros(len(logits), dtype=torch.bool)
    keep[order] = weight > 1 - p
    return keep, float((weight - (1 - p)).abs().min())


def tgi_typical_p(logits: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """The same of TGI's TypicalLogitsWarper."""
    logprobs = logits.log_softmax(0)
    entropy = -(logprobs.exp() * logprobs).nansum()
    shifted = (-logprobs - entropy).abs()
    values, order = shifted.sort()
    weight = logits[order].softmax(0).cumsum(0)
    last = min(int((weight < p).sum()), len(logits) - 1)
    return shifted <= values[last], float((weight - p).abs().min())


@pytest.mark.parametrize(("field", "reference"), [("top_p", tgi_top_p), ("typical_p", tgi_typical_p)])
def test_the_allowed_set_is_tgis(field, reference):
    checked = 0
    for seed in range(40):
        logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 4)
        p = torch.tensor([(0.05, 0.5, 0.9, 0.99)[seed // 4 % 4]])
        batch = plain_batch(1, 500)
        batch[field][:] = p
        z = process(logits[0], batch, 0)
        keep, margin = reference(logits[0].double(), float(p))
        if margin > 1e-5:  # nearer to the edge the rounding of fp32 decides
            checked += 1
            assert torch.equal(allowed(z.max() - z, batch, 0), keep)
    assert checked > 30
