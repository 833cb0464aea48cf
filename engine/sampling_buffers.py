"""How each row is sampled, in fixed memory: per sequence when it starts, per row by one gather in every step."""

from collections import deque

import numpy as np
import torch
from llguidance import LLExecutor

from ..kernels import SamplingBatch
from .grammar import Matcher, allow_all
from .sampling_rules import Biases, biases_of, wants_counts, wants_output_counts
from .sequence import Sequence
from .staging import Copy, Staged, copy_async

# Fields of 32 bits, one row each in the table of slots and in a step's block, with the value that switches them off.
_WORDS: dict[str, tuple[type, float]] = {
    "temperature": (np.float32, 1.0),
    "top_k": (np.int32, 0),
    "top_p": (np.float32, 1.0),
    "repetition_penalty": (np.float32, 1.0),
    "seen": (np.int32, -1),
    "min_p": (np.float32, 0.0),
    "typical_p": (np.float32, 1.0),
    "frequency_penalty": (np.float32, 0.0),
    "output_frequency_penalty": (np.float32, 0.0),
    "presence_penalty": (np.float32, 0.0),
    "top_n": (np.int32, -1),
    "grammar": (np.int32, -1),
}
_FROM_PARAMS = tuple(name for name in _WORDS if name not in ("seen", "grammar"))
_GRAMMAR, _SEEN = list(_WORDS).index("grammar"), list(_WORDS).index("seen")
_LONGS = ("seeds", "positions", "watermark")
_OPTIONAL = ("min_p", "typical_p", "frequency_penalty", "output_frequency_penalty", "presence_penalty", "top_n")
_FLAGS = {name: 1 << bit for bit, name in enumerate((*_OPTIONAL, "grammar", "watermark", "bias"))}
_ALL = (1 << len(_FLAGS)) - 1
MAX_STOP_TOKENS = 64  # of a sequence with min_new_tokens
_ALIGNMENT = 16  # entries, so that every field starts at a multiple of 16 bytes: Triton specialises on that


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
        all_fields: bool = False,
    ) -> None:
        """
        Args:
            max_sequences: slots.
            max_rows: sampled rows of a step, drafts included.
            vocab_size: of the logits.
            device: where the kernels read.
            max_logit_bias: entries of one sequence's logit bias; beside them there is room for MAX_STOP_TOKENS.
            all_fields: give every field in every step; for launches that are recorded once.
        """
        rows = -(-(max_rows + 1) // _ALIGNMENT) * _ALIGNMENT
        self._vocab_size = vocab_size
        self._max_rows, self._all_fields = max_rows, all_fields
        self._executor = LLExecutor() if device.type == "cuda" else None

        self._slot_words = np.zeros((len(_WORDS), max_sequences), np.int32)
        self._slot_field = {
            name: self._slot_words[index].view(kind) for index, (name, (kind, _)) in enumerate(_WORDS.items())
        }
        for name, (_, neutral) in _WORDS.items():
            self._slot_field[name][:] = neutral
        self._slot_seeds = np.zeros(max_sequences, np.uint64)
        self._slot_greedy = np.zeros(max_sequences, np.bool_)
        self._slot_flags = np.zeros(max_sequences, np.int32)
        self._slot_early_end = np.zeros(max_sequences, np.int64)  # position from which the stop tokens are allowed
        self._slot_biases: list[Biases | None] = [None] * max_sequences
        self._matchers: list[Matcher | None] = [None] * max_sequences

        # One block for all that every row has, so that a step takes one copy.
        sizes = (len(_LONGS) * rows * 8, len(_WORDS) * rows * 4, rows * 4, rows)
        self._ends = np.cumsum(sizes).tolist()
        self._block_rows = rows
        self._block = Staged((self._ends[-1],), torch.uint8, device)
        biases = max_rows * (max_logit_bias + MAX_STOP_TOKENS)
        self._bias_ids = Staged((biases,), torch.int32, device)
        self._bias_values = Staged((biases,), torch.float32, device)
        self._bits = Staged((max_sequences, -(-vocab_size // 32)), torch.int32, device)
        self.token_counts = torch.zeros(max_sequences, vocab_size, dtype=torch.int32, device=device)
        self.output_counts = torch.zeros(max_sequences, vocab_size, dtype=torch.int32, device=device)
        self._counts_to_write: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Not written again until their copies are done: for two steps, as the other host memory.
        self._counts_written: deque[list[tuple[torch.Tensor, torch.Tensor]]] = deque([[], []])
        self._spare_counts: list[torch.Tensor] = []  # as many as were ever in use at once

        self._host_parts = [[part.numpy() for part in self._parts(block)] for block in self._block.host]
        self._device_fields = self._views(self._block.device)
        self._batches: dict[tuple[int, int], SamplingBatch] = {}
        self._staged: tuple[int, int, int, int] = (0, 0, 0, 0)  # rows, flags, biases, grammars

    def start(self, sequence: Sequence, matcher: Matcher | None = None) -> None:
        """Take in a sequence that has its slot and whose tokens are all known; ``matcher`` if it has a grammar.

        What its slot held before is forgotten: there is nothing to do when a sequence stops.
        """
        slot, sampling = sequence.slot, sequence.sampling
        assert (matcher is None) == (sampling.grammar is None)
        flags = 0
        for name in _FROM_PARAMS:
            value = getattr(sampling, name)
            self._slot_field[name][slot] = value
            if name in _OPTIONAL and value != _WORDS[name][1]:
                flags |= _FLAGS[name]
        counted = wants_counts(sampling)
        self._slot_field["seen"][slot] = slot if counted else -1
        if sampling.top_n == 0 and not sampling.raw_logprobs:
            self._slot_field["top_n"][slot] = -1
            flags &= ~_FLAGS["top_n"]
        self._slot_seeds[slot] = sampling.seed
        self._slot_greedy[slot] = sampling.greedy
        flags |= _FLAGS["watermark"] * sampling.watermark + _FLAGS["grammar"] * (matcher is not None)
        self._matchers[slot] = matcher
        self._slot_biases[slot] = biases = biases_of(sampling, self._vocab_size)
        flags |= _FLAGS["bias"] * (biases is not None)
        self._slot_early_end[slot] = sequence.prompt_tokens + sampling.min_new_tokens
        self._slot_flags[slot] = flags
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
        longs, words, bias_start, greedy = self._host_parts[self._block.turn()]
        slots = np.array([sequence.slot for sequence, _ in rows], np.intp)
        positions = longs[1, :count]
        positions[:] = [position for _, position in rows]
        longs[0, :count] = self._slot_seeds[slots].view(np.int64)
        longs[2, :count] = -1
        words[:, :count] = self._slot_words[:, slots]
        greedy[:count] = self._slot_greedy[slots]
        # A graph may sample more rows than there are: they count no tokens, and are done soonest.
        words[_SEEN, count:] = -1
        greedy[count:] = True
        bias_start[: count + 1] = 0

        row_flags = self._slot_flags[slots]
        flags = int(np.bitwise_or.reduce(row_flags, initial=0))
        if flags & _FLAGS["watermark"]:
            for row in np.flatnonzero(row_flags & _FLAGS["watermark"]):
                sequence, position = rows[row]
                longs[2, row] = sequence.tokens[position - 1]
        grammars = 0
        if flags & _FLAGS["grammar"]:
            constrained = np.flatnonzero(row_flags & _FLAGS["grammar"])
            grammars = len(constrained)
            words[_GRAMMAR, constrained] = np.arange(grammars)
            self._allow(slots[constrained])
        biases = 0
        if flags & _FLAGS["bias"]:
            biases = self._stage_biases(slots, positions, np.flatnonzero(row_flags & _FLAGS["bias"]), bias_start)
            if biases == 0:
                flags &= ~_FLAGS["bias"]
        self._staged = (count, flags, biases, grammars)

    def upload(self, copy: Copy = copy_async) -> SamplingBatch:
        """Bring what was staged to the device, and the counts of sequences that started.

        Returns the batch: views of the same memory in every step; with ``all_fields`` of all rows, else of those
        staged. It has every optional field or none: each set of fields is a compilation of its own on a GPU.
        """
        count, flags, biases, grammars = self._staged
        self._block.upload(self._ends[-1], copy)
        self._bias_ids.upload(biases, copy)
        self._bias_values.upload(biases, copy)
        self._bits.upload(grammars, copy)
        for target, source in self._counts_to_write:
            copy(target, source)
        self._counts_written.append(self._counts_to_write)
        self._counts_to_write = self._counts_written.popleft()
        self._spare_counts += [source for _, source in self._counts_to_write]
        self._counts_to_write.clear()
        return self.batch() if self._all_fields else self._batch(count, _ALL if flags else 0)

    def batch(self) -> SamplingBatch:
        """The batch with every field and row, over the memory that ``upload`` writes."""
        return self._batch(self._max_rows, _ALL)

    def plain_batch(self, rows: int) -> SamplingBatch:
        """The batch of so many rows with the fields that every request has."""
        return self._batch(rows, 0)

    def _allow(self, slots: np.ndarray) -> None:
        bits = self._bits.arrays[self._bits.turn()]
        matchers = [matcher for slot in slots.tolist() if (matcher := self._matchers[slot]) is not None]
        allow_all(matchers, bits, self._executor)

    def _stage_biases(
        self, slots: np.ndarray, positions: np.ndarray, biased: np.ndarray, bias_start: np.ndarray
    ) -> int:
        """Concatenate the biases of the rows ``biased``. Returns how many there are."""
        all_ids = self._bias_ids.arrays[self._bias_ids.turn()]
        all_values = self._bias_values.arrays[self._bias_values.turn()]
        early = positions < self._slot_early_end[slots]
        end = 0
        for row in biased.tolist():
            slot = slots[row]
            biases, matcher = self._slot_biases[slot], self._matchers[slot]
            assert biases is not None
            # A grammar that is complete goes before min_new_tokens: nothing but the end is left.
            is_early = early[row] and (matcher is None or not matcher.is_done)
            ids, values = biases.early if is_early else biases.later
            all_ids[end : end + len(ids)] = ids
            all_values[end : end + len(ids)] = values
            end += len(ids)
            bias_start[row + 1] = len(ids)
        rows = len(positions)
        np.cumsum(bias_start[: rows + 1], out=bias_start[: rows + 1])
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

    def _parts(self, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The block's 64-bit fields, 32-bit fields, bias_start and greedy."""
        rows = self._block_rows
        longs, words, bias_start = self._ends[:3]
        return (
            block[:longs].view(torch.int64).view(len(_LONGS), rows),
            block[longs:words].view(torch.int32).view(len(_WORDS), rows),
            block[words:bias_start].view(torch.int32),
            block[bias_start:].view(torch.bool),
        )

    def _views(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        longs, words, bias_start, greedy = self._parts(block)
        fields = dict(zip(_LONGS, longs, strict=True))
        for (name, (kind, _)), field in zip(_WORDS.items(), words, strict=True):
            fields[name] = field.view(torch.float32) if kind is np.float32 else field
        return {**fields, "bias_start": bias_start, "greedy": greedy}

    def _batch(self, rows: int, flags: int) -> SamplingBatch:
        batch = self._batches.get((rows, flags))
        if batch is not None:
            return batch
        given = {name for name, flag in _FLAGS.items() if flags & flag}
        fields = {name: tensor[:rows] for name, tensor in self._device_fields.items()}
        batch = SamplingBatch(
            greedy=fields["greedy"],
            temperature=fields["temperature"],
            top_k=fields["top_k"],
            top_p=fields["top_p"],
            repetition_penalty=fields["repetition_penalty"],
            seeds=fields["seeds"],
            positions=fields["positions"],
            seen=fields["seen"],
            token_counts=self.token_counts,
        )
        for name in given - {"bias"}:
            setattr(batch, name, fields[name])
        if given & {"output_frequency_penalty", "presence_penalty"}:
            batch.output_counts = self.output_counts
        if "grammar" in given:
            batch.grammar_bits = self._bits.device
        if "bias" in given:
            batch.bias_start = self._device_fields["bias_start"][: rows + 1]
            batch.bias_ids, batch.bias_values = self._bias_ids.device, self._bias_values.device
        if len(self._batches) > 4096:
            self._batches.clear()
        self._batches[rows, flags] = batch
        return batch
