"""What the sampler is told of each row, and what it returns."""

from dataclasses import dataclass

import torch

from .sampling_fields import FIELDS, INDEX

TOP_WIDTH = 32  # columns of the lists of best tokens: 20, and room for ties at the cut-off
PROCESSED, RAW = 0, 1  # after the processing, within the allowed set; the model's own distribution


@dataclass
class SamplingBatch:
    """How each row of a logits matrix is to be sampled; every row may differ.

    A logit is processed in this order, in fp32: bias, repetition penalty, frequency penalty, output frequency and
    presence penalties, grammar, temperature. Then the allowed set shrinks by top-k, top-p, min-p and typical-p, each
    taken from the distribution that the one before it left. Top-p (typical-p) keeps a token if the tokens with strictly
    larger probability (the strictly more typical ones) weigh less than p: equal ones stay or go together. The token is
    the one with the largest sum of logit and noise, the lowest id of equals. NaN is never allowed. ``kernels/exact.py``
    says how weights and noise are computed bit for bit.
    """

    fields: torch.Tensor  # int32 [FIELDS, at least rows], see kernels/sampling_fields.py
    token_counts: torch.Tensor  # int32 [penalised sequences, vocab], occurrences in prompt and output
    output_counts: torch.Tensor  # like ``token_counts``, of the output alone
    bias_ids: torch.Tensor  # int32 [biases], ascending within a row, each token once
    bias_values: torch.Tensor  # fp32 [biases]
    grammar_bits: torch.Tensor  # int32 [grammars, ceil(vocab / 32)], bit i % 32 of word i // 32: token i is allowed
    full: bool  # rows use optional fields; all of Sampled is filled then, where a row's ``top_n`` isn't -1

    def __getitem__(self, name: str) -> torch.Tensor:
        """One field of every row, int32 or fp32, over the same memory."""
        field = self.fields[INDEX[name]]
        return field.view(torch.float32) if FIELDS[name].kind == "float" else field

    @classmethod
    def neutral(cls, rows: int, vocab: int, *, full: bool) -> "SamplingBatch":
        """Rows that are drawn at temperature 1 from all tokens, on the CPU; with room for one sequence's counts."""
        batch = cls(
            fields=torch.empty((len(FIELDS), rows), dtype=torch.int32),
            token_counts=torch.zeros((1, vocab), dtype=torch.int32),
            output_counts=torch.zeros((1, vocab), dtype=torch.int32),
            bias_ids=torch.zeros(1, dtype=torch.int32),
            bias_values=torch.zeros(1),
            grammar_bits=torch.zeros((1, -(-vocab // 32)), dtype=torch.int32),
            full=full,
        )
        for name, field in FIELDS.items():
            batch[name][:] = field.neutral
        return batch

    def set_seeds(self, seeds: torch.Tensor) -> None:
        """``seeds``: int64 [rows], the bits of u64."""
        halves = seeds.contiguous().view(torch.int32).view(-1, 2)  # little-endian
        self["seed_low"][:], self["seed_high"][:] = halves[:, 0], halves[:, 1]


@dataclass
class Sampled:
    """What the sampler returns for each row. A row without any finite logit gives token 0, with logprob -inf.

    The lists hold the best tokens, best first, equal ones by id, ties at the cut-off included while there is room.
    Unless the batch is full, and of rows whose ``top_n`` is -1, only tokens and processed logprobs are written.
    """

    token_ids: torch.Tensor  # int64 [rows]
    logprobs: torch.Tensor  # fp32 [rows, 2], natural log, PROCESSED and RAW
    top_ids: torch.Tensor  # int64 [rows, 2, TOP_WIDTH], -1 beyond the row's last
    top_logprobs: torch.Tensor  # fp32 [rows, 2, TOP_WIDTH], -inf beyond the row's last

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> "Sampled":
        """Room for so many rows."""
        return cls(
            torch.empty(rows, dtype=torch.int64, device=device),
            torch.empty((rows, 2), device=device),
            torch.empty((rows, 2, TOP_WIDTH), dtype=torch.int64, device=device),
            torch.empty((rows, 2, TOP_WIDTH), device=device),
        )
