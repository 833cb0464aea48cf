"""Batches to sample from: a builder with everything off, and hypothesis strategies over all combinations."""

import torch
from hypothesis import strategies as st

from headwater.kernels import SamplingBatch


def plain_batch(rows: int, vocab: int) -> SamplingBatch:
    """Sampling at temperature 1, every row with a seed of its own; set fields to switch things on."""
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


def row_of(batch: SamplingBatch, row: int) -> SamplingBatch:
    """The same row alone."""
    fields = {}
    for name, value in vars(batch).items():
        per_sequence = name in ("token_counts", "output_counts", "grammar_bits", "bias_ids", "bias_values")
        if isinstance(value, torch.Tensor) and not per_sequence:
            value = value[row : row + 2] if name == "bias_start" else value[row : row + 1]
        fields[name] = value
    if batch.bias_start is not None:
        start, end = batch.bias_start[row : row + 2].tolist()
        fields["bias_start"] = torch.tensor([0, end - start], dtype=torch.int32)
        fields["bias_ids"] = batch.bias_ids[start:end].clone()
        fields["bias_values"] = batch.bias_values[start:end].clone()
    return SamplingBatch(**fields)


@st.composite
def logits_like(draw, rows: int, vocab: int) -> torch.Tensor:
    """Peaked, flat, tied, masked and broken rows."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(rows, vocab, generator=generator) * draw(st.sampled_from([0.0, 0.1, 3.0, 10.0]))
    if draw(st.booleans()):
        x = (x * 4).round() / 4  # ties
    damage = draw(st.sampled_from(["none", "none", "one left", "none left", "broken"]))
    row, token = draw(st.integers(0, rows - 1)), draw(st.integers(0, vocab - 1))
    if damage in ("one left", "none left"):
        kept = x[row, token].item()
        x[row] = -torch.inf
        x[row, token] = kept if damage == "one left" else -torch.inf
    if damage == "broken":
        x[row, token] = torch.nan
        x[row, vocab // 2] = torch.inf
    return x


@st.composite
def cases(draw, vocabs: tuple[int, ...], max_rows: int = 3) -> tuple[torch.Tensor, SamplingBatch]:
    """Logits and a batch in which every row may differ in everything."""
    rows, vocab = draw(st.integers(1, max_rows)), draw(st.sampled_from(vocabs))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def per_row(values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([draw(st.sampled_from(values)) for _ in range(rows)], dtype=dtype)

    batch = SamplingBatch(
        greedy=per_row([False, False, True], torch.bool),
        temperature=per_row([1.0, 0.7, 2.0, 0.01, 1e-30], torch.float32),
        top_k=per_row([0, 0, 1, 5, 40, vocab, vocab + 3], torch.int32),
        top_p=per_row([1.0, 1.0, 0.1, 0.5, 0.95, 1e-30], torch.float32),
        repetition_penalty=per_row([1.0, 1.3, 0.7], torch.float32),
        seeds=per_row([0, -1, 12345, -(2**63)], torch.int64),
        positions=per_row([0, 1, 77, 2**33 + 5], torch.int64),
        seen=per_row([-1, 0, 1], torch.int32),
        token_counts=torch.randint(0, 3, (2, vocab), generator=generator, dtype=torch.int32),
    )
    if draw(st.booleans()):
        batch.min_p = per_row([0.0, 0.05, 0.5, 1.0], torch.float32)
        batch.typical_p = per_row([1.0, 0.2, 0.9], torch.float32)
    if draw(st.booleans()):
        batch.frequency_penalty = per_row([0.0, 1.5, -2.0], torch.float32)
        batch.output_frequency_penalty = per_row([0.0, 0.5, -1.0], torch.float32)
        batch.presence_penalty = per_row([0.0, 0.5, -1.0], torch.float32)
        batch.output_counts = torch.randint(0, 2, (2, vocab), generator=generator, dtype=torch.int32)
    if draw(st.booleans()):
        biased = [sorted(draw(st.sets(st.integers(0, vocab - 1), max_size=4))) for _ in range(rows)]
        batch.bias_start = torch.tensor([0] + [len(ids) for ids in biased], dtype=torch.int32).cumsum(0).int()
        batch.bias_ids = torch.tensor([i for ids in biased for i in ids], dtype=torch.int32)
        batch.bias_values = torch.randn(len(batch.bias_ids), generator=generator) * 10
    if draw(st.booleans()):
        batch.grammar = per_row([-1, 0], torch.int32)
        batch.grammar_bits = torch.randint(-(2**31), 2**31, (1, (vocab + 31) // 32), generator=generator).int()
    if draw(st.booleans()):
        batch.watermark = per_row([-1, 0, vocab - 1], torch.int64)
        batch.watermark_gamma = draw(st.sampled_from([0.25, 0.5]))
    if draw(st.booleans()):
        batch.top_n = per_row([0, 1, 5, 20], torch.int32)
    return draw(logits_like(rows, vocab)), batch
