"""How likely the model found the tokens of a prompt: of those sequences that want to know."""

import torch

from ..kernels import Backend
from ..kernels.sampling_batch import RAW, TOP_WIDTH, SamplingBatch
from .chunk import Chunk
from .messages import MAX_TOP_N, PromptScores
from .model_step import Capture, ScoredRows
from .staging import StagingBuffer


class PromptScorer:
    """Scores prompt rows after the step's body, some at a time: the logits of a whole chunk would take too much memory.

    It waits for each lot, so a step with such a chunk does not overlap with others. Those requests are rare.
    """

    def __init__(
        self, scored: ScoredRows, backend: Backend, vocab_size: int, device: torch.device, capture: Capture
    ) -> None:
        self._scored = scored
        self._backend = backend
        self._lot = lot = scored.lot
        self._inputs = scored.inputs
        self._results = StagingBuffer(
            {
                "logprobs": ((lot,), torch.float32),
                "top_ids": ((lot, 2, TOP_WIDTH), torch.int64),
                "top_logprobs": ((lot, 2, TOP_WIDTH), torch.float32),
            },
            device,
        )
        self._lists_batch = _lists_batch(lot, vocab_size, device)
        self._logits = torch.empty(0)  # of the recorded program
        self._program = capture(self._run, (lot,))

    def score(self, chunks: list[Chunk]) -> None:
        """Extend ``prompt_scores`` of the sequences that asked for it, as far as the chunks go."""
        row = 0
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.sampling.prompt_logprobs:
                # A preempted sequence comes here again with what is known already.
                begin = max(chunk.start, len(sequence.prompt_scores.logprobs))
                end = min(chunk.start + chunk.count, sequence.prompt_tokens - 1)
                for start in range(begin, end, self._lot):
                    count = min(self._lot, end - start)
                    targets = sequence.tokens[start + 1 : start + 1 + count]
                    top_n = sequence.sampling.prompt_top_n
                    self._score_lot(row + start - chunk.start, targets, top_n, sequence.prompt_scores)
            row += chunk.count

    def _score_lot(self, first_row: int, targets: list[int], top_n: int, scores: PromptScores) -> None:
        count = len(targets)
        inputs, results = self._inputs.turn(), self._results.turn()
        inputs["rows"][:] = 0
        inputs["rows"][:count] = range(first_row, first_row + count)
        inputs["targets"][:count] = targets
        self._inputs.upload(self._backend.copy)
        self._program.launch(count)
        if top_n:
            self._list(count)
        self._results.download(self._backend.copy, "top_logprobs" if top_n else "logprobs")
        self._backend.Event().wait()
        scores.logprobs += results["logprobs"][:count].tolist()
        if top_n:
            scores.top_ids += results["top_ids"][:count, RAW, :top_n].tolist()
            scores.top_logprobs += results["top_logprobs"][:count, RAW, :top_n].tolist()

    def _run(self, rows: int) -> None:
        self._logits = self._scored.logits(rows)
        logprobs = self._backend.token_logprobs(self._logits, self._inputs.device["targets"][:rows])
        self._backend.copy(self._results.device["logprobs"][:rows], logprobs)

    def _list(self, rows: int) -> None:
        """The lists are the sampler's, so that they are those of a generated token bit for bit."""
        sampled = self._backend.sample(self._logits[:rows], self._lists_batch)
        for name in ("top_ids", "top_logprobs"):
            self._backend.copy(self._results.device[name][:rows], getattr(sampled, name)[:rows])


def _lists_batch(rows: int, vocab_size: int, device: torch.device) -> SamplingBatch:
    """Nothing is asked of the sampler but its lists of best tokens."""
    batch = SamplingBatch.neutral(rows, vocab_size, full=True)
    batch["greedy"][:] = 1
    batch["top_n"][:] = MAX_TOP_N
    tensors = {name: value.to(device) for name, value in vars(batch).items() if name != "full"}
    return SamplingBatch(**tensors, full=True)
