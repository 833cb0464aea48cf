"""Sampling parameters on their way into a SamplingBatch, against the plain sampler with one row built by hand."""

import math
import random

import numpy as np
import pytest
import torch

from headwater.bench.device.gpu.sampling_oracle import Row, sample_row
from headwater.engine.messages import SamplingParams
from headwater.engine.sampling_buffers import SamplingBuffers
from headwater.engine.sampling_results import HostSampled
from headwater.engine.sampling_rules import can_speculate, needs_sync
from headwater.engine.sequence import Sequence, SequenceKey
from headwater.kernels.cpu import sample
from headwater.kernels.sampling_batch import SamplingBatch
from headwater.kernels.sampling_fields import FIELDS

VOCAB = 200
MAX_SEQUENCES = 8
CPU = torch.device("cpu")

# Every parameter that the sampler has, alone, and all of them together.
PARAMETERS: dict[str, dict[str, object]] = {
    "plain": {},
    "greedy": {"greedy": True},
    "temperature": {"temperature": 0.3, "seed": 2**64 - 1},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.4},
    "min_p": {"min_p": 0.3},
    "typical_p": {"typical_p": 0.3},
    "repetition": {"repetition_penalty": 3.0},
    "frequency": {"frequency_penalty": 90.0},
    "output frequency": {"output_frequency_penalty": 2.0},
    "presence": {"presence_penalty": 5.0},
    "bias": {"logit_bias": ((3, 5.0), (190, -20.0), (199, 6.0))},
    "minimum": {"min_new_tokens": 5, "stop_token_ids": (4, 2)},
    "minimum and bias": {"min_new_tokens": 5, "stop_token_ids": (4, 2), "logit_bias": ((2, 90.0), (3, 3.0))},
    "strange ids": {"min_new_tokens": 5, "stop_token_ids": (VOCAB,), "logit_bias": ((3, 3.0), (VOCAB + 9, 1.0))},
    "top_n": {"top_n": 4},
    "raw": {"raw_logprobs": True, "temperature": 0.2},
    "all": {
        "top_k": 30, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9, "temperature": 1.5, "repetition_penalty": 1.2,
        "frequency_penalty": 3.0, "output_frequency_penalty": 0.2, "presence_penalty": 0.3,
        "logit_bias": ((0, 1.0),), "min_new_tokens": 5, "stop_token_ids": (2,), "top_n": 5, "raw_logprobs": True,
    },
}  # fmt: skip


def params(name: str) -> SamplingParams:
    return SamplingParams(max_new_tokens=50, **{"greedy": False, "seed": 17, **PARAMETERS[name]})


def sequence_of(sampling: SamplingParams, slot: int, generated: int = 3) -> Sequence:
    draw = random.Random(slot)
    tokens = [draw.randrange(VOCAB) for _ in range(6 + generated)]
    sequence = Sequence(SequenceKey(0, slot), tokens, 6, sampling, arrival=0.0)
    sequence.slot = slot
    return sequence


def logits_of(rows: int) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows)) * 3


def want(logits: torch.Tensor, sequence: Sequence, position: int) -> Row:
    """What the plain sampler makes of one row."""
    p = sequence.sampling
    tokens, output = torch.tensor(sequence.tokens), torch.tensor(sequence.tokens[sequence.prompt_tokens :])
    biases = dict(p.logit_bias)
    if position - sequence.prompt_tokens < p.min_new_tokens:
        biases |= dict.fromkeys(p.stop_token_ids, -math.inf)
    ids = sorted(token_id for token_id in biases if token_id < VOCAB)
    batch = SamplingBatch.neutral(1, VOCAB, full=True)
    for name in FIELDS.keys() & set(SamplingParams.__struct_fields__):
        batch[name][:] = getattr(p, name)
    batch.set_seeds(torch.from_numpy(np.array([p.seed], np.uint64).view(np.int64)))
    batch["position"][:], batch["counts_row"][:], batch["bias_end"][:] = position, 0, len(ids)
    batch.token_counts = tokens.bincount(minlength=VOCAB)[None].int()
    batch.output_counts = output.bincount(minlength=VOCAB)[None].int()
    batch.bias_ids, batch.bias_values = torch.tensor(ids, dtype=torch.int32), torch.tensor([biases[i] for i in ids])
    return sample_row(logits, batch, 0)


def check(buffers: SamplingBuffers, rows: list[tuple[Sequence, int]]) -> None:
    """Stage, upload and sample; every row must be what it is alone."""
    buffers.stage(rows)
    logits = logits_of(len(rows))
    sampled = HostSampled.of(sample(logits.clone(), buffers.upload()))
    for row, (sequence, position) in enumerate(rows):
        wanted = want(logits[row], sequence, position)
        assert sampled.token_ids[row] == wanted.token
        logprob, top_ids, top_logprobs = sampled.details(row, sequence.sampling)
        raw = sequence.sampling.raw_logprobs
        assert logprob == pytest.approx(wanted.raw_logprob if raw else wanted.logprob, rel=2e-6, abs=1e-5)
        top = wanted.raw_top if raw else wanted.top
        assert top_ids == list(top)
        assert top_logprobs == pytest.approx(list(top.values()), rel=2e-6, abs=1e-5)


@pytest.mark.parametrize("always_full", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_alone(name, always_full):
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU, always_full=always_full)
    sequence = sequence_of(params(name), slot=5)
    buffers.start(sequence)
    check(buffers, [(sequence, sequence.total)])


@pytest.mark.parametrize("always_full", [False, True])
def test_steps_of_changing_sequences(always_full):
    """Sequences of all kinds come and go, slots are used again, and every row is what it is alone."""
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU, always_full=always_full)
    draw = random.Random(1)
    running: dict[int, Sequence] = {}
    for _ in range(60):
        for slot in draw.sample(range(MAX_SEQUENCES), 3):
            running[slot] = sequence_of(params(draw.choice(list(PARAMETERS))), slot, generated=draw.randrange(1, 9))
            buffers.start(running[slot])
        rows = draw.sample(list(running.values()), draw.randrange(1, len(running) + 1))
        check(buffers, [(sequence, sequence.total) for sequence in rows])


def test_rows_of_one_sequence():
    """Guesses have rows at consecutive positions; min_new_tokens goes by the position."""
    buffers = SamplingBuffers(MAX_SEQUENCES, 32, VOCAB, CPU)
    sampling = SamplingParams(50, True, min_new_tokens=5, stop_token_ids=(7,), logit_bias=((9, 1.0),))
    guessing, other = sequence_of(sampling, 0), sequence_of(params("bias"), 1)
    assert can_speculate(sampling)
    for sequence in (guessing, other):
        buffers.start(sequence)
    buffers.stage([(guessing, 9 + i) for i in range(4)] + [(other, 9)])
    logits = torch.zeros(5, VOCAB)
    logits[:, 7] = 3.0
    got = sample(logits, buffers.upload()).token_ids.tolist()
    # 3 tokens are generated: the row at position 9 draws the fourth, the one at 11 the first that may be the stop token
    assert got[:4] == [9, 9, 7, 7]


def test_a_batch_is_full_only_where_a_row_needs_it():
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU)
    plain, minimum = sequence_of(params("plain"), 0), sequence_of(params("minimum"), 1)
    for sequence in (plain, minimum):
        buffers.start(sequence)

    def is_full(rows: list[tuple[Sequence, int]]) -> bool:
        buffers.stage(rows)
        return buffers.upload().full

    assert not is_full([(plain, 9)])
    assert is_full([(plain, 9), (minimum, 10)])
    assert not is_full([(plain, 9), (minimum, 11)])  # the minimum is reached
    for name in ("min_p", "typical_p", "frequency", "raw", "presence", "top_n"):
        other = sequence_of(params(name), 2)
        buffers.start(other)
        assert is_full([(plain, 9), (other, 9)]), name
    for name in ("top_k", "top_p", "repetition", "greedy", "temperature"):
        other = sequence_of(params(name), 2)
        buffers.start(other)
        assert not is_full([(plain, 9), (other, 9)]), name


def test_rows_past_a_steps_own_count_no_tokens():
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU)
    penalised = [sequence_of(params("repetition"), slot) for slot in range(4)]
    for sequence in penalised:
        buffers.start(sequence)
    for count in (4, 4, 2):  # both turns of the host's memory have been used
        buffers.stage([(sequence, 9) for sequence in penalised[:count]])
        buffers.upload()
    batch = buffers.plain_batch
    assert batch["counts_row"][:4].tolist() == [0, 1, -1, -1]
    assert batch["greedy"][:4].tolist() == [0, 0, 1, 1]


def test_memory_stays_the_same():
    """A launch that was recorded with a batch reads what later steps write."""
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU, always_full=True)
    recorded = buffers.full_batch
    assert all(recorded[name].data_ptr() % 16 == 0 for name in FIELDS)
    for name in ("plain", "all", "greedy"):
        sequence = sequence_of(params(name), 3)
        buffers.start(sequence)
        buffers.stage([(sequence, sequence.total)])
        assert buffers.upload() is recorded
        assert bool(recorded["greedy"][0]) == sequence.sampling.greedy
        assert recorded["top_n"][0] == (5 if name == "all" else -1)


def test_a_step_can_be_staged_before_the_one_before_is_copied():
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU)
    sequence = sequence_of(params("minimum and bias"), 0)
    buffers.start(sequence)
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    buffers.stage([(sequence, 9)])
    first = buffers.upload(lambda target, source: copies.append((target, source)))
    buffers.stage([(sequence, 12)])
    for target, source in copies:
        target.copy_(source)
    assert first["position"][0] == 9
    assert first.bias_ids[:3].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "sync", "speculate"),
    [("plain", False, True), ("all", False, False), ("minimum", False, True)]
    + [(name, False, False) for name in ("repetition", "frequency", "output frequency", "presence")]
    + [(name, False, True) for name in ("bias", "top_n", "raw", "top_p")],
)
def test_what_depends_on_the_tokens_before(name, sync, speculate):
    assert (needs_sync(params(name)), can_speculate(params(name))) == (sync, speculate)


def test_best_tokens_without_probability_are_left_out():
    """A row whose allowed set is one token has one best token, though three were asked for."""
    sampling = SamplingParams(50, False, top_k=1, top_n=3)
    buffers = SamplingBuffers(MAX_SEQUENCES, MAX_SEQUENCES, VOCAB, CPU)
    sequence = sequence_of(sampling, 0)
    buffers.start(sequence)
    buffers.stage([(sequence, 9)])
    logits = logits_of(1)
    best = int(logits.argmax())
    sampled = HostSampled.of(sample(logits, buffers.upload()))
    assert sampled.details(0, sampling) == (0.0, [best], [0.0])
