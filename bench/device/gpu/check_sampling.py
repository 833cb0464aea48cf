"""The sampler against the plain one, token for token, and its draws against the distribution."""

import random
from dataclasses import replace

import torch

from ....kernels.sampling_batch import PROCESSED, RAW, TOP_WIDTH, Sampled, SamplingBatch
from ....kernels.triton import sample
from .sampling_oracle import sample_row
from .setup import Comparison, Results, Setup, equal

_LOGPROB_ERROR = 1e-5  # of fp32 logprobs up to 5; of larger ones a fifth of that, relatively
_CHI_SQUARED = 44.3  # of 15 degrees of freedom; exceeded once in 10 000


def plain_batch(rows: int, vocab: int, *, full: bool = False) -> SamplingBatch:
    """Sampling at temperature 1, every row with a seed of its own, on the CPU."""
    batch = SamplingBatch.neutral(rows, vocab, full=full)
    batch.set_seeds(torch.arange(rows) + 7)
    batch["position"][:] = 3
    return batch


def to_device(batch: SamplingBatch, device: torch.device) -> SamplingBatch:
    """The same batch elsewhere."""
    tensors = {name: value.to(device) for name, value in vars(batch).items() if name != "full"}
    return SamplingBatch(**tensors, full=batch.full)


def row_of(batch: SamplingBatch, row: int) -> SamplingBatch:
    """One row alone."""
    return replace(batch, fields=batch.fields[:, row : row + 1].clone())


def draw_from(setup: Setup, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """The kernels' result; ``logits`` stay as they are."""
    return sample(logits.to(setup.device, copy=True), to_device(batch, setup.device))


def model_like(rows: int, vocab: int, seed: int = 5) -> torch.Tensor:
    """Logits as a model's: noise, and thirty tokens that stand out."""
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2
    logits[:, vocab // 2 : vocab // 2 + 30] += torch.linspace(0, 12, 30)
    return logits


def every_kind(vocab: int, *, full: bool = True) -> SamplingBatch:
    """Rows bounded in each way, peaked and flat; those that need optional fields only if ``full``."""
    batch = plain_batch(8, vocab, full=full)
    batch["greedy"][0] = 1
    batch["top_k"][2], batch["top_p"][2] = 50, 0.9
    batch["top_p"][3] = 0.95
    batch["top_p"][4], batch["temperature"][4] = 0.95, 100.0  # nearly the whole vocabulary: more than the list holds
    batch["top_k"][7] = 256
    if full:
        batch["min_p"][5], batch["typical_p"][6] = 0.02, 0.8
        batch["top_n"][:] = 20
    return batch


def random_case(chance: random.Random, vocab: int, rows: int) -> tuple[torch.Tensor, SamplingBatch]:
    """Logits and a batch in which every row may differ in everything."""
    generator = torch.Generator().manual_seed(chance.getrandbits(31))
    batch = SamplingBatch.neutral(rows, vocab, full=chance.random() < 0.7)

    def draw(name: str, *values: float) -> None:
        batch[name][:] = torch.tensor([chance.choice(values) for _ in range(rows)])

    draw("greedy", 0, 0, 1)
    draw("temperature", 1.0, 0.7, 2.0, 0.01, 1e-30)
    draw("top_k", 0, 0, 1, 5, 40, vocab, vocab + 3)
    draw("top_p", 1.0, 1.0, 0.1, 0.5, 0.95, 1e-30)
    draw("repetition_penalty", 1.0, 1.3, 0.7)
    draw("position", 0, 1, 77, 2**31 - 1)
    draw("counts_row", -1, 0, 1)
    batch.set_seeds(torch.tensor([chance.choice((0, -1, 12345, -(2**63))) for _ in range(rows)]))
    batch.token_counts = torch.randint(0, 3, (2, vocab), generator=generator, dtype=torch.int32)
    # Each group of optional fields may be off: what one does must not hide what another doesn't.
    if batch.full and chance.random() < 0.6:
        draw("min_p", 0.0, 0.05, 0.5, 1.0)
        draw("typical_p", 1.0, 0.2, 0.9)
    if batch.full and chance.random() < 0.6:
        draw("frequency_penalty", 0.0, 1.5, -2.0)
        draw("output_frequency_penalty", 0.0, 0.5, -1.0)
        draw("presence_penalty", 0.0, 0.5, -1.0)
    batch.output_counts = torch.randint(0, 2, (2, vocab), generator=generator, dtype=torch.int32)
    if batch.full and chance.random() < 0.6:
        biased = [sorted({chance.randrange(vocab) for _ in range(chance.randint(0, 4))}) for _ in range(rows)]
        ends = torch.tensor([len(each) for each in biased]).cumsum(0)
        batch["bias_end"][:], batch["bias_start"][1:] = ends, ends[:-1]
        batch.bias_ids = torch.tensor([token for each in biased for token in each], dtype=torch.int32)
        batch.bias_values = torch.randn(len(batch.bias_ids), generator=generator) * 10
    if batch.full and chance.random() < 0.6:
        draw("grammar_row", -1, 0)
        batch.grammar_bits = torch.randint(-(2**31), 2**31, (1, (vocab + 31) // 32), generator=generator).int()
    if batch.full and chance.random() < 0.6:
        draw("top_n", -1, 0, 1, 5, 20)
    return _random_logits(chance, generator, rows, vocab), batch


def _random_logits(chance: random.Random, generator: torch.Generator, rows: int, vocab: int) -> torch.Tensor:
    """Peaked, flat, tied, masked and broken rows."""
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
    return logits


def against_plain(setup: Setup, name: str, logits: torch.Tensor, batch: SamplingBatch) -> Results:
    """Tokens and lists exactly; logprobs within rounding."""
    yield from compare_with_plain(name, draw_from(setup, logits, batch), logits, batch)


def compare_with_plain(name: str, got: Sampled, logits: torch.Tensor, batch: SamplingBatch) -> Results:
    """What a backend drew from these logits against the oracle."""
    want = [sample_row(logits[row], batch, row) for row in range(len(logits))]
    yield equal(f"{name}: tokens", got.token_ids.cpu(), torch.tensor([row.token for row in want]))
    logprobs = [(got.logprobs[:, PROCESSED], [row.logprob for row in want])]
    detailed = [i for i in range(len(want)) if batch.full and batch["top_n"][i] >= 0]
    for kind, lists in ((PROCESSED, [want[i].top for i in detailed]), (RAW, [want[i].raw_top for i in detailed])):
        ids = torch.tensor([[*each, *[-1] * (TOP_WIDTH - len(each))] for each in lists]).view(-1, TOP_WIDTH)
        yield equal(f"{name}: best tokens", got.top_ids[detailed, kind].cpu(), ids.long())
        for row, each in zip(detailed, lists, strict=True):
            rest = [-torch.inf] * (TOP_WIDTH - len(each))
            logprobs.append((got.top_logprobs[row, kind], [*each.values(), *rest]))
    logprobs.append((got.logprobs[detailed, RAW], [want[i].raw_logprob for i in detailed]))
    error = max((_farthest(a.double().cpu(), torch.tensor(b, dtype=torch.float64)) for a, b in logprobs), default=0.0)
    yield Comparison(f"{name}: logprobs", error, _LOGPROB_ERROR)


def _farthest(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference, see _LOGPROB_ERROR; equal infinities differ by nothing."""
    allowance = (want.abs() / 5).clamp(min=1.0)
    return float(torch.where(got == want, 0.0, (got - want).abs() / allowance).max()) if len(got) else 0.0


def check_sampling(setup: Setup) -> Results:
    """Whole vocabularies, with and without the details."""
    vocabs = (1100,) if setup.tiny else (32000, 128256) if setup.quick else (32000, 128256, 262144)
    for vocab in vocabs:
        for full in (False, True):
            name = f"sampling{' with details' if full else ''}, {vocab} tokens"
            yield from against_plain(setup, name, model_like(8, vocab), every_kind(vocab, full=full))


def check_sampling_cases(setup: Setup) -> Results:
    """Random combinations of all parameters over small vocabularies, ties and broken rows."""
    chance = random.Random(0)
    count, vocabs = (6, (130,)) if setup.tiny else (40 if setup.quick else 150, (130, 3000))
    for number in range(count):
        case = random_case(chance, chance.choice(vocabs), chance.randint(1, 3))
        yield from against_plain(setup, f"sampling case {number}", *case)


def check_sampling_alone(setup: Setup) -> Results:
    """A row's token and logprob do not depend on its batch, bit for bit."""
    vocab = 300 if setup.tiny else 32000
    logits, batch = model_like(8, vocab), every_kind(vocab)
    together = draw_from(setup, logits, batch)
    for row in range(len(logits)):
        got = draw_from(setup, logits[row : row + 1], row_of(batch, row))
        yield equal(f"sampling row {row}: token alone", got.token_ids, together.token_ids[row : row + 1])
        yield equal(f"sampling row {row}: logprobs alone", got.logprobs, together.logprobs[row : row + 1])


def check_draws(setup: Setup) -> Results:
    """Chi-squared of many draws from sixteen tokens."""
    rounds, rows = (1, 100) if setup.tiny else (25, 4000)
    logits = torch.linspace(-3, 2, 16)
    counts = torch.zeros(16, dtype=torch.int64)
    for number in range(rounds):
        batch = plain_batch(rows, 16)
        batch.set_seeds(torch.full((rows,), 2024))
        batch["position"][:] = torch.arange(rows) + number * rows
        got = draw_from(setup, logits.repeat(rows, 1), batch)
        counts += got.token_ids.cpu().bincount(minlength=16)
    expected = logits.double().softmax(0) * rounds * rows
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    yield Comparison(f"chi-squared of {rounds * rows} draws, 15 degrees of freedom", chi_squared, _CHI_SQUARED)
