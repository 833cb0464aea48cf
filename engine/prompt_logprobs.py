"""How likely the model found the tokens of a prompt: of those sequences that want to know."""

import torch

from ..kernels import Backend
from .chunk import Chunk
from .limits import Limits
from .models import DecoderModel
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
        self._results = StagingBuffer({"logprobs": ((lot,), torch.float32)}, device)
        self._program = backend.capture(self._run, (lot,))

    def score(self, chunks: list[Chunk]) -> None:
        """Extend ``prompt_logprobs`` of the sequences that asked for it, as far as the chunks go."""
        row = 0
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.sampling.prompt_logprobs:
                # A preempted sequence comes here again with what is known already.
                begin = max(chunk.start, len(sequence.prompt_logprobs))
                end = min(chunk.start + chunk.count, sequence.prompt_tokens - 1)
                for start in range(begin, end, self._lot):
                    count = min(self._lot, end - start)
                    targets = sequence.tokens[start + 1 : start + 1 + count]
                    sequence.prompt_logprobs += self._score_lot(row + start - chunk.start, targets)
            row += chunk.count

    def _score_lot(self, first_row: int, targets: list[int]) -> list[float]:
        count = len(targets)
        inputs, results = self._inputs.turn(), self._results.turn()
        inputs["rows"][:] = 0
        inputs["rows"][:count] = range(first_row, first_row + count)
        inputs["targets"][:count] = targets
        self._inputs.upload(self._backend.copy)
        self._program.launch(count)
        self._results.download(self._backend.copy, "logprobs")
        self._backend.Event().wait()
        return results["logprobs"][:count].tolist()

    def _run(self, rows: int) -> None:
        inputs = self._inputs.device
        logits = self._model.head(self._hidden, inputs["rows"][:rows])
        logprobs = self._backend.token_logprobs(logits, inputs["targets"][:rows])
        self._backend.copy(self._results.device["logprobs"][:rows], logprobs)
