"""How likely the model found the tokens of a prompt: of those sequences that want to know."""

import torch

from ..kernels import Backend
from ..kernels.sampling_batch import RAW, TOP_WIDTH, SamplingBatch
from .chunk import Chunk
from .limits import Limits
from .messages import MAX_TOP_N, PromptScores
from .models.decoder import DecoderModel
from .staging import StagingBuffer


class PromptScorer:
    """Scores prompt rows after the step's body, some at a time: the logits of a whole chunk would take too much memory.

    It waits for each lot, so a step with such a chunk does not overlap with others. Those requests are rare.
    """

    def __init__(
        self, model: DecoderModel, backend: Backend, hidden: torch.Tensor, limits: Limits, device: torch.device
    ) -> None:
        """``hidden`` is what the model's body writes."""
        self._model = model
        self._backend = backend
        self._hidden = hidden
        self._lot = lot = limits.max_samples
        self._inputs = StagingBuffer({"rows": ((lot,), torch.int64), "targets": ((lot,), torch.int64)}, device)
        self._results = StagingBuffer(
            {
                "logprobs": ((lot,), torch.float32),
                "top_ids": ((lot, 2, TOP_WIDTH), torch.int64),
                "top_logprobs": ((lot, 2, TOP_WIDTH), torch.float32),
            },
            device,
        )
        self._lists_batch = _lists_batch(lot, model.config.vocab_size, device)
        self._program = backend.capture(self._run, (lot,))

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
        if top_n:
            self._run_with_lists(count)
        else:
            self._program.launch(count)
        self._results.download(self._backend.copy, "top_logprobs" if top_n else "logprobs")
        self._backend.Event().wait()
        scores.logprobs += results["logprobs"][:count].tolist()
        if top_n:
            scores.top_ids += results["top_ids"][:count, RAW, :top_n].tolist()
            scores.top_logprobs += results["top_logprobs"][:count, RAW, :top_n].tolist()

    def _run(self, rows: int) -> torch.Tensor:
        inputs = self._inputs.device
        logits = self._model.head(self._hidden, inputs["rows"][:rows])
        logprobs = self._backend.token_logprobs(logits, inputs["targets"][:rows])
        self._backend.copy(self._results.device["logprobs"][:rows], logprobs)
        return logits

    def _run_with_lists(self, rows: int) -> None:
        """The lists are the sampler's, so that they are those of a generated token bit for bit."""
        sampled = self._backend.sample(self._run(rows), self._lists_batch)
        for name in ("top_ids", "top_logprobs"):
            self._backend.copy(self._results.device[name][:rows], getattr(sampled, name)[:rows])


def _lists_batch(rows: int, vocab_size: int, device: torch.device) -> SamplingBatch:
    """Nothing is asked of the sampler but its lists of best tokens."""
    batch = SamplingBatch.neutral(rows, vocab_size, full=True)
    batch["greedy"][:] = 1
    batch["top_n"][:] = MAX_TOP_N
    tensors = {name: value.to(device) for name, value in vars(batch).items() if name != "full"}
    return SamplingBatch(**tensors, full=True)
