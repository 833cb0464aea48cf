"""How each row is sampled, in fixed memory: per sequence when it starts, per row by one gather in every step."""

from collections import deque

import numpy as np
import torch
from llguidance import LLExecutor

from ..kernels.sampling_batch import SamplingBatch
from ..kernels.sampling_fields import FIELDS, INDEX
from .grammar import Matcher, allow_all
from .messages import SamplingParams
from .sampling_rules import Biases, biases_of, wants_counts, wants_output_counts
from .sequence import Sequence
from .staging import Copy, StagedTensor, copy_async

_FROM_PARAMS = tuple(name for name in FIELDS if name in SamplingParams.__struct_fields__)
_OPTIONAL = tuple(name for name in _FROM_PARAMS if FIELDS[name].optional)
MAX_STOP_TOKENS = 64  # of a sequence with min_new_tokens
_ALIGNMENT = 16  # rows, so that every field starts at a multiple of 64 bytes: Triton specialises on 16


class SamplingBuffers:
    """Sampling parameters of all running sequences by slot, and the SamplingBatch of a step.

    A step takes ``stage`` (host memory only) and ``upload`` (all writes to what kernels read, as copies in order), so
    that a step can be staged while the one before it runs. The host's side of a step is written again two steps later.
    """

    def __init__(
        self,
        max_sequences: int,
        max_rows: int,
        vocab_size: int,
        device: torch.device,
        max_logit_bias: int = 1024,
        always_full: bool = False,
    ) -> None:
        """
        Args:
            max_sequences: slots.
            max_rows: sampled rows of a step, drafts included.
            vocab_size: of the logits.
            device: where the kernels read.
            max_logit_bias: entries of one sequence's logit bias; beside them there is room for MAX_STOP_TOKENS.
            always_full: every step's batch has the optional fields; for launches that are recorded once.
        """
        rows = -(-max_rows // _ALIGNMENT) * _ALIGNMENT
        self._vocab_size = vocab_size
        self._executor = LLExecutor() if device.type == "cuda" else None
        # The same fields by slot and by row: a step is staged by copying columns.
        self._slots = np.zeros((len(FIELDS), max_sequences), np.int32)
        self._slot_field = {
            name: self._slots[index].view(np.float32 if FIELDS[name].kind == "float" else np.int32)
            for name, index in INDEX.items()
        }
        for name, field in FIELDS.items():
            self._slot_field[name][:] = field.neutral
        self._slot_is_full = np.zeros(max_sequences, np.bool_)
        self._slot_early_end = np.zeros(max_sequences, np.int64)  # position from which the stop tokens are allowed
        self._slot_biases: list[Biases | None] = [None] * max_sequences
        self._matchers: list[Matcher | None] = [None] * max_sequences

        self._rows = StagedTensor((len(FIELDS), rows), torch.int32, device)
        biases = max_rows * (max_logit_bias + MAX_STOP_TOKENS)
        self._bias_ids = StagedTensor((biases,), torch.int32, device)
        self._bias_values = StagedTensor((biases,), torch.float32, device)
        self._bits = StagedTensor((max_sequences, -(-vocab_size // 32)), torch.int32, device)
        self.token_counts = torch.zeros(max_sequences, vocab_size, dtype=torch.int32, device=device)
        self.output_counts = torch.zeros(max_sequences, vocab_size, dtype=torch.int32, device=device)
        self._counts_to_write: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Not written again until their copies are done: for two steps, as the other host memory.
        self._counts_written: deque[list[tuple[torch.Tensor, torch.Tensor]]] = deque([[], []])
        self._spare_counts: list[torch.Tensor] = []  # as many as were ever in use at once

        tables = (self.token_counts, self.output_counts)
        lists = (self._bias_ids.device, self._bias_values.device, self._bits.device)
        self.plain_batch = SamplingBatch(self._rows.device, *tables, *lists, full=False)
        self.full_batch = SamplingBatch(self._rows.device, *tables, *lists, full=True)
        self._always_full = always_full
        self._staged = (False, 0, 0)  # full; biases; grammars

    def start(self, sequence: Sequence, matcher: Matcher | None = None) -> None:
        """Take in a sequence that has its slot and whose tokens are all known; ``matcher`` if it has a grammar.

        What its slot held before is forgotten: there is nothing to do when a sequence stops.
        """
        slot, sampling = sequence.slot, sequence.sampling
        assert (matcher is None) == (sampling.grammar is None)
        fields = self._slot_field
        for name in _FROM_PARAMS:
            fields[name][slot] = getattr(sampling, name)
        if sampling.top_n == 0 and not sampling.raw_logprobs:
            fields["top_n"][slot] = FIELDS["top_n"].neutral
        seed = np.array([sampling.seed], np.uint64).view(np.int32)  # little-endian
        fields["seed_low"][slot], fields["seed_high"][slot] = seed
        counted = wants_counts(sampling)
        fields["counts_row"][slot] = slot if counted else -1
        self._matchers[slot] = matcher
        self._slot_biases[slot] = biases_of(sampling, self._vocab_size)
        self._slot_early_end[slot] = sequence.prompt_tokens + sampling.min_new_tokens
        optional = any(fields[name][slot] != np.float32(FIELDS[name].neutral) for name in _OPTIONAL)
        self._slot_is_full[slot] = optional or matcher is not None
        if counted:
            self._write_counts(self.token_counts[slot], sequence.tokens)
        if wants_output_counts(sampling):
            self._write_counts(self.output_counts[slot], sequence.tokens[sequence.prompt_tokens :])

    def stage(self, rows: list[tuple[Sequence, int]]) -> None:
        """Lay out a step on the host.

        Args:
            rows: of each row of logits its sequence and the position of the token to be drawn. Rows of one sequence
                have consecutive positions; there are several only if it ``can_speculate``.
        """
        count = len(rows)
        block = self._rows.arrays[self._rows.turn()]
        slots = [sequence.slot for sequence, _ in rows]
        block[:, :count] = self._slots[:, slots]
        block[INDEX["position"], :count] = [position for _, position in rows]
        # A graph may sample more rows than there are: they count no tokens, and are done soonest.
        block[INDEX["counts_row"], count:] = -1
        block[INDEX["grammar_row"], count:] = -1
        block[INDEX["top_n"], count:] = -1
        block[INDEX["bias_start"], count:] = block[INDEX["bias_end"], count:] = 0
        block[INDEX["greedy"], count:] = 1
        constrained = [row for row, slot in enumerate(slots) if self._matchers[slot] is not None]
        if constrained:
            block[INDEX["grammar_row"], constrained] = np.arange(len(constrained))
            self._allow([slots[row] for row in constrained])
        biases = self._stage_biases(rows, block)
        full = bool(self._slot_is_full[slots].any()) or biases > 0
        self._staged = (full, biases, len(constrained))

    def upload(self, copy: Copy = copy_async) -> SamplingBatch:
        """Bring what was staged to the device, and the counts of sequences that started.

        Returns ``full_batch`` or ``plain_batch``: the same memory in every step, with more rows than were staged.
        """
        full, biases, grammars = self._staged
        self._rows.upload(len(FIELDS), copy)
        self._bias_ids.upload(biases, copy)
        self._bias_values.upload(biases, copy)
        self._bits.upload(grammars, copy)
        for target, source in self._counts_to_write:
            copy(target, source)
        self._counts_written.append(self._counts_to_write)
        self._counts_to_write = self._counts_written.popleft()
        self._spare_counts += [source for _, source in self._counts_to_write]
        self._counts_to_write.clear()
        return self.full_batch if full or self._always_full else self.plain_batch

    def _allow(self, slots: list[int]) -> None:
        bits = self._bits.arrays[self._bits.turn()]
        matchers = [matcher for slot in slots if (matcher := self._matchers[slot]) is not None]
        allow_all(matchers, bits, self._executor)

    def _stage_biases(self, rows: list[tuple[Sequence, int]], block: np.ndarray) -> int:
        """Concatenate the rows' biases, and say where each one's are. Returns how many there are."""
        all_ids = self._bias_ids.arrays[self._bias_ids.turn()]
        all_values = self._bias_values.arrays[self._bias_values.turn()]
        starts, ends = block[INDEX["bias_start"]], block[INDEX["bias_end"]]
        end = 0
        for row, (sequence, position) in enumerate(rows):
            biases, matcher = self._slot_biases[sequence.slot], self._matchers[sequence.slot]
            if biases is None:
                continue
            # A grammar that is complete goes before min_new_tokens: nothing but the end is left.
            is_early = position < self._slot_early_end[sequence.slot] and (matcher is None or not matcher.is_done)
            ids, values = biases.early if is_early else biases.later
            starts[row], end = end, end + len(ids)
            ends[row] = end
            all_ids[starts[row] : end] = ids
            all_values[starts[row] : end] = values
        return end

    def _write_counts(self, target: torch.Tensor, tokens: list[int]) -> None:
        if self._spare_counts:
            counts = self._spare_counts.pop()
        else:  # pinned: a copy from other memory would wait for the step that is under way
            counts = torch.empty(self._vocab_size, dtype=torch.int32, pin_memory=target.is_cuda)
        values = counts.numpy()
        values.fill(0)
        ids, times = np.unique(np.array(tokens, np.intp), return_counts=True)
        values[ids] = times
        self._counts_to_write.append((target, counts))
