"""Log-probabilities of given tokens, on both backends."""

import pytest
import torch

from headwater.bench.device.gpu.check_sampling import plain_batch
from headwater.kernels.cpu import sample
from headwater.kernels.cpu.logprobs import token_logprobs as cpu
from headwater.kernels.sampling_batch import RAW
from headwater.kernels.triton.logprobs import token_logprobs as triton

backends = pytest.mark.parametrize("token_logprobs", [cpu, triton], ids=["cpu", "triton"])


def random_logits(rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 4


@backends
@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (5, 17), (3, 4096), (4, 10000)])
def test_token_logprobs_equal_their_formula(token_logprobs, rows, vocab):
    logits = random_logits(rows, vocab)
    token_ids = torch.arange(rows) * 7919 % vocab
    want = logits.double().log_softmax(-1)[torch.arange(rows), token_ids]
    before = logits.clone()
    assert token_logprobs(logits, token_ids).tolist() == pytest.approx(want.tolist(), rel=2e-6, abs=1e-6)
    assert torch.equal(logits, before)


@backends
def test_extreme_rows(token_logprobs):
    logits = torch.full((6, 5000), -torch.inf)
    logits[1, 4999] = 3.0  # alone
    logits[2] = 1e38  # equal and huge: the sum must not overflow
    logits[3] = torch.nan
    logits[4, :2] = torch.tensor([-1e30, -1e30])
    logits[5, 0], logits[5, 4998] = torch.inf, 1.0  # infinity is cut to the largest logit there is
    got = token_logprobs(logits, torch.tensor([0, 4999, 17, 3, 1, 0]))
    ln = torch.log(torch.tensor([5000.0, 2.0]))
    assert got.tolist() == pytest.approx([-torch.inf, 0.0, -ln[0].item(), -torch.inf, -ln[1].item(), 0.0])
    assert token_logprobs(logits[1:2], torch.tensor([3])).item() == -torch.inf


@backends
def test_a_row_does_not_depend_on_its_batch(token_logprobs):
    logits, token_ids = random_logits(4, 5000), torch.tensor([3, 77, 4999, 0])
    together = token_logprobs(logits, token_ids)
    for row in range(4):
        assert token_logprobs(logits[row : row + 1].clone(), token_ids[row : row + 1])[0] == together[row]


def test_cpu_values_are_the_samplers_bit_for_bit():
    logits = random_logits(6, 49152)
    batch = plain_batch(6, 49152, full=True)
    batch["top_n"][:] = 0
    sampled = sample(logits.clone(), batch)
    assert torch.equal(cpu(logits, sampled.token_ids), sampled.logprobs[:, RAW])
