"""What every rank computes of a step: the body, from a step's rows to hidden ones, and the logits of some of them."""

from collections.abc import Callable, Sequence

import torch

from ..kernels import Backend, Program
from .limits import Limits
from .models.decoder import DecoderModel
from .models.dtypes import Dtypes
from .models.kv_cache import KVCache
from .staging import StagingBuffer
from .step_buffers import StepBuffers

# Records what a function of some rows launches, for these numbers of rows: Backend.capture, or Ranks.recording of it.
Capture = Callable[[Callable[[int], object], Sequence[int]], Program]


class ModelStep:
    """A model with its cache and the memory of its steps. All ranks record the same programs, in the same order.

    Attributes:
        inputs: of a step; rank 0 fills them.
        hidden: [rows, hidden_size] in the rows' dtype, what the body makes of them.
        cache: pages of this rank's heads.
    """

    def __init__(
        self, model: DecoderModel, backend: Backend, limits: Limits, dtypes: Dtypes, device: torch.device
    ) -> None:
        """Raises Unsupported."""
        self._model, self._backend = model, backend
        config = model.config
        self.cache = KVCache(config, limits.num_pages, limits.page_size, dtypes.pages, device)
        self.inputs = StepBuffers(limits, limits.max_samples, device, backend.keeps_page_tables)
        self._plans = {
            window: backend.new_plan(
                limits.max_rows, limits.max_sequences, limits.max_total_tokens, config.num_q_heads,
                config.num_kv_heads, config.head_dim, limits.page_size, device, window,
            )
            for window in model.windows
        }  # fmt: skip
        self.hidden = torch.zeros(limits.max_rows, config.hidden_size, dtype=dtypes.rows, device=device)
        any_size = backend.records_any_size
        self.body_rows = (limits.max_rows,) if any_size else limits.graph_rows
        self.head_rows = (limits.max_samples,) if any_size else limits.graph_rows

    def capture_bodies(self, capture: Capture, before: Callable[[int], object]) -> tuple[Program, Program]:
        """The body without and with adapters, the same one where there are none; ``before`` is run on rank 0 first."""
        body = capture(lambda rows: self._run_body(rows, before), self.body_rows)
        adapters, adapted = self._model.adapters, body
        if adapters is not None:  # a step without any launches the body that knows of none

            def run_adapted(rows: int) -> None:
                with adapters.applying(self.inputs.adapters):
                    self._run_body(rows, before)

            adapted = capture(run_adapted, self.body_rows)
        return body, adapted

    def logits(self, samples: int) -> torch.Tensor:
        """Of the rows that a step samples from, fp32 [samples, vocab] on rank 0."""
        return self._model.head(self.hidden, self.inputs.last_rows[:samples])

    def _run_body(self, rows: int, before: Callable[[int], object]) -> None:
        inputs, batch, model = self.inputs, self.inputs.batch(rows), self._model
        before(rows)
        if model.exchange is not None:
            model.exchange.broadcast([inputs.memory], [inputs.page_table])
        for plan in self._plans.values():
            self._backend.fill_plan(plan, batch)
        model.body(inputs.token_ids[:rows], batch, self._plans, self.cache, self.hidden[:rows])


class ScoredRows:
    """Rows of a prompt whose tokens are scored, some at a time; see PromptScorer.

    Attributes:
        lot: how many at a time.
        inputs: ``rows``, of the step, and ``targets``, int64 [lot] both; rank 0 fills them.
    """

    def __init__(self, model: DecoderModel, hidden: torch.Tensor, limits: Limits, device: torch.device) -> None:
        """``hidden`` is what the model's body writes."""
        self._model, self._hidden = model, hidden
        self.lot = limits.max_samples
        self.inputs = StagingBuffer({"rows": ((self.lot,), torch.int64), "targets": ((self.lot,), torch.int64)}, device)

    def logits(self, rows: int) -> torch.Tensor:
        """Fp32 [rows, vocab] on rank 0."""
        if self._model.exchange is not None:
            self._model.exchange.broadcast([self.inputs.memory])
        return self._model.head(self._hidden, self.inputs.device["rows"][:rows])
