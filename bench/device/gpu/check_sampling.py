"""The sampler against the plain one, token for token, and its draws against the distribution."""

import random
from collections.abc import Callable
from copy import copy
from typing import Any

import torch

from ....kernels import Sampled, SamplingBatch
from ....kernels.triton import sample
from .sampling_oracle import sample_row
from .setup import Comparison, Results, Setup, equal

_LOGPROB_ERROR = 2e-5  # of fp32 logprobs near 20
_CHI_SQUARED = 44.3  # of 15 degrees of freedom; exceeded once in 10 000


def plain_batch(rows: int, vocab: int) -> SamplingBatch:
    """Sampling at temperature 1, every row with a seed of its own, on the CPU."""
    return SamplingBatch(
        greedy=torch.zeros(rows, dtype=torch.bool),
        temperature=torch.ones(rows),
        top_k=torch.zeros(rows, dtype=torch.int32),
        top_p=torch.ones(rows),
        repetition_penalty=torch.ones(rows),
        seeds=torch.arange(rows) + 7,
        positions=torch.full((rows,), 3),
        seen=torch.full((rows,), -1, dtype=torch.int32),
        token_counts=torch.zeros((1, vocab), dtype=torch.int32),
    )


def to_device(batch: SamplingBatch, device: torch.device) -> SamplingBatch:
    """The same batch elsewhere."""
    return _changed(batch, lambda _, tensor: tensor.to(device))


def _changed(batch: SamplingBatch, change: Callable[[str, torch.Tensor], torch.Tensor]) -> SamplingBatch:
    """A copy, in which each field that is a tensor went through ``change``."""
    made = copy(batch)
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(made, name, change(name, value))
    return made


def _only(batch: SamplingBatch, row: int) -> SamplingBatch:
    """One row of a batch without penalties or biases."""
    return _changed(batch, lambda name, tensor: tensor if name == "token_counts" else tensor[row : row + 1])


def draw_from(setup: Setup, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """The kernels' result; ``logits`` stay as they are."""
    return sample(logits.to(setup.device, copy=True), to_device(batch, setup.device))


def model_like(rows: int, vocab: int, seed: int = 5) -> torch.Tensor:
    """Logits as a model's: noise, and thirty tokens that stand out."""
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    logits[:, vocab // 2 : vocab // 2 + 30] += torch.linspace(0, 12, 30)
    return logits


def every_kind(vocab: int) -> SamplingBatch:
    """Rows bounded in each way, peaked and flat."""
    batch = plain_batch(8, vocab)
    batch.greedy[0] = True
    batch.top_k[2], batch.top_p[2] = 50, 0.9
    batch.top_p[3] = 0.95
    batch.top_p[4], batch.temperature[4] = 0.95, 100.0  # nearly the whole vocabulary: more than the list holds
    batch.min_p = torch.tensor([0, 0, 0, 0, 0, 0.02, 0, 0])
    batch.typical_p = torch.tensor([1, 1, 1, 1, 1, 1, 0.8, 1])
    batch.top_k[7] = 256
    return batch


def random_case(chance: random.Random, vocab: int) -> tuple[torch.Tensor, SamplingBatch]:
    """Logits and a batch in which every row may differ in everything."""
    rows = chance.randint(1, 3)
    generator = torch.Generator().manual_seed(chance.getrandbits(31))

    def draw(values: list[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([chance.choice(values) for _ in range(rows)], dtype=dtype)

    def counts(upto: int) -> torch.Tensor:
        return torch.randint(0, upto, (2, vocab), generator=generator, dtype=torch.int32)

    fp32, int32 = torch.float32, torch.int32
    batch = SamplingBatch(
        greedy=draw([False, False, True], torch.bool),
        temperature=draw([1.0, 0.7, 2.0, 0.01, 1e-30], fp32),
        top_k=draw([0, 0, 1, 5, 40, vocab, vocab + 3], int32),
        top_p=draw([1.0, 1.0, 0.1, 0.5, 0.95, 1e-30], fp32),
        repetition_penalty=draw([1.0, 1.3, 0.7], fp32),
        seeds=draw([0, -1, 12345, -(2**63)], torch.int64),
        positions=draw([0, 1, 77, 2**33 + 5], torch.int64),
        seen=draw([-1, 0, 1], int32),
        token_counts=counts(3),
    )
    # All or nothing: each set of fields is a compilation of its own.
    if chance.random() < 0.5:
        batch.min_p, batch.typical_p = draw([0.0, 0.05, 0.5, 1.0], fp32), draw([1.0, 0.2, 0.9], fp32)
        batch.frequency_penalty = draw([0.0, 1.5, -2.0], fp32)
        batch.output_frequency_penalty = draw([0.0, 0.5, -1.0], fp32)
        batch.presence_penalty = draw([0.0, 0.5, -1.0], fp32)
        batch.output_counts = counts(2)
        biased = [sorted({chance.randrange(vocab) for _ in range(chance.randint(0, 4))}) for _ in range(rows)]
        ids = [token for each in biased for token in each]
        batch.bias_start = torch.tensor([0, *(len(each) for each in biased)]).cumsum(0).to(int32)
        batch.bias_ids = torch.tensor(ids, dtype=int32)
        batch.bias_values = torch.randn(len(ids), generator=generator) * 10
        batch.grammar = draw([-1, 0], int32)
        batch.grammar_bits = torch.randint(-(2**31), 2**31, (1, (vocab + 31) // 32), generator=generator).to(int32)
        batch.watermark = draw([-1, 0, vocab - 1], torch.int64)
        batch.top_n = draw([0, 1, 5, 20], int32)
    logits = torch.randn(rows, vocab, generator=generator) * chance.choice([0.0, 0.1, 3.0, 10.0])
    if chance.random() < 0.5:
        logits = (logits * 4).round() / 4  # ties
    damage, row, token = chance.randrange(6), chance.randrange(rows), chance.randrange(vocab)
    if damage in (0, 1):  # one token is left, or none
        kept = logits[row, token].item()
        logits[row] = -torch.inf
        logits[row, token] = kept if damage else -torch.inf
    if damage == 2:
        logits[row, token], logits[row, vocab // 2] = torch.nan, torch.inf
    return logits, batch


def against_plain(setup: Setup, name: str, logits: torch.Tensor, batch: SamplingBatch) -> Results:
    """Tokens, ranks and lists exactly; logprobs within rounding."""
    got = draw_from(setup, logits, batch)
    want = [sample_row(logits[row], batch, row) for row in range(len(logits))]
    yield equal(f"{name}: tokens", got.token_ids.cpu(), torch.tensor([row.token for row in want]))
    logprobs = [(got.logprobs, [row.logprob for row in want])]
    if got.ranks is not None and got.raw_ranks is not None and got.raw_logprobs is not None:
        yield equal(f"{name}: ranks", got.ranks.cpu().long(), torch.tensor([row.rank for row in want]))
        yield equal(f"{name}: raw ranks", got.raw_ranks.cpu().long(), torch.tensor([row.raw_rank for row in want]))
        logprobs.append((got.raw_logprobs, [row.raw_logprob for row in want]))
        for top, lists in ((got.top, [row.top for row in want]), (got.raw_top, [row.raw_top for row in want])):
            assert top is not None
            width = top.ids.shape[1]
            ids = torch.tensor([[*each, *[-1] * (width - len(each))] for each in lists])
            yield equal(f"{name}: best tokens", top.ids.cpu(), ids)
            for row, each in enumerate(lists):
                logprobs.append((top.logprobs[row, : len(each)], list(each.values())))
    error = max((_farthest(a.double().cpu(), torch.tensor(b, dtype=torch.float64)) for a, b in logprobs), default=0.0)
    yield Comparison(f"{name}: logprobs", error, _LOGPROB_ERROR)


def _farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference; equal infinities differ by nothing."""
    return float(torch.where(got == want, 0.0, (got - want).abs()).max()) if len(got) else 0.0


def check_sampling(setup: Setup) -> Results:
    """Whole vocabularies, with and without the details."""
    vocabs = (1100,) if setup.tiny else (32000, 128256) if setup.quick else (32000, 128256, 262144)
    for vocab in vocabs:
        batch = every_kind(vocab)
        yield from against_plain(setup, f"sampling, {vocab} tokens", model_like(8, vocab), batch)
        batch.top_n = torch.full((8,), 20, dtype=torch.int32)
        yield from against_plain(setup, f"sampling with details, {vocab} tokens", model_like(8, vocab), batch)


def check_sampling_cases(setup: Setup) -> Results:
    """Random combinations of all parameters over small vocabularies, ties and broken rows."""
    chance = random.Random(0)
    count, vocabs = (6, (130,)) if setup.tiny else (40 if setup.quick else 150, (130, 3000))
    for number in range(count):
        yield from against_plain(setup, f"sampling case {number}", *random_case(chance, chance.choice(vocabs)))


def check_sampling_alone(setup: Setup) -> Results:
    """A row's token and logprob do not depend on its batch, bit for bit."""
    vocab = 300 if setup.tiny else 32000
    logits, batch = model_like(8, vocab), every_kind(vocab)
    together = draw_from(setup, logits, batch)
    for row in range(len(logits)):
        got = draw_from(setup, logits[row : row + 1], _only(batch, row))
        yield equal(f"sampling row {row}: token alone", got.token_ids, together.token_ids[row : row + 1])
        yield equal(f"sampling row {row}: logprob alone", got.logprobs, together.logprobs[row : row + 1])


def check_draws(setup: Setup) -> Results:
    """Chi-squared of many draws from sixteen tokens."""
    rounds, rows = (1, 100) if setup.tiny else (25, 4000)
    logits = torch.linspace(-3, 2, 16)
    counts = torch.zeros(16, dtype=torch.int64)
    for number in range(rounds):
        batch = plain_batch(rows, 16)
        batch.seeds[:] = 2024
        batch.positions = torch.arange(rows) + number * rows
        got = draw_from(setup, logits.repeat(rows, 1), batch)
        counts += got.token_ids.cpu().bincount(minlength=16)
    expected = logits.double().softmax(0) * rounds * rows
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    yield Comparison(f"chi-squared of {rounds * rows} draws, 15 degrees of freedom", chi_squared, _CHI_SQUARED)
