"""From the chunks of a step to its tokens: the model, the cache and the sampler on one device."""

import torch

from ..kernels import Backend, Sampled
from .limits import Limits
from .models import DecoderModel, Dtypes, KVCache
from .scheduler import Chunk
from .sequence import Sequence
from .step_buffers import StepBuffers


class Runner:
    """Runs steps. Knows tokens and pages; who runs is the scheduler's business."""

    def __init__(
        self, model: DecoderModel, backend: Backend, limits: Limits, dtypes: Dtypes, device: torch.device
    ) -> None:
        self._model = model
        self._backend = backend
        self.cache = KVCache(model.config, limits.num_pages, limits.page_size, dtypes.rows, device)
        self._buffers = StepBuffers(limits, model.config.vocab_size, device)
        config = model.config
        self._plans = {
            window: backend.new_plan(
                limits.max_rows, limits.max_sequences, limits.max_total_tokens, config.num_q_heads,
                config.num_kv_heads, config.head_dim, limits.page_size, device, window,
            )
            for window in model.windows
        }  # fmt: skip
        self._free_penalty_rows = list(range(limits.max_sequences))
        self.vocab_size = model.config.vocab_size

    def start(self, sequence: Sequence) -> None:
        """Prepare what sampling keeps beside the cache; called when the sequence begins to run."""
        if sequence.sampling.repetition_penalty != 1.0:
            sequence.penalty_row = self._free_penalty_rows.pop()
            counts = self._buffers.token_counts[sequence.penalty_row]
            counts.zero_()
            tokens = torch.tensor(sequence.tokens, device=counts.device)
            counts.index_add_(0, tokens, torch.ones_like(tokens, dtype=counts.dtype))

    def stop(self, sequence: Sequence) -> None:
        """Give back what ``start`` took; called when the sequence ends, is dropped or is preempted."""
        if sequence.penalty_row >= 0:
            self._free_penalty_rows.append(sequence.penalty_row)
            sequence.penalty_row = -1

    @torch.inference_mode()
    def run(self, chunks: list[Chunk]) -> tuple[list[int], list[float]]:
        """One step. Returns the token and its logprob of each chunk that samples, in order."""
        token_ids, batch, last_rows = self._buffers.fill(chunks)
        for plan in self._plans.values():
            self._backend.fill_plan(plan, batch)
        logits = self._model.forward(token_ids, batch, self._plans, self.cache, last_rows)
        if not len(last_rows):
            return [], []
        sampling = self._buffers.fill_sampling(chunks)
        sampled: Sampled = self._backend.sample(logits, sampling)
        tokens = sampled.token_ids.tolist()
        for sequence, token in zip((c.sequence for c in chunks if c.samples), tokens, strict=True):
            if sequence.penalty_row >= 0:
                self._buffers.token_counts[sequence.penalty_row, token] += 1
        return tokens, sampled.logprobs.tolist()
