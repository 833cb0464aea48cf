"""From the chunks of a step to its tokens: the model, the cache and the sampler on one device.

A step is staged in host memory and launched as a few recorded programs; nothing waits for it before ``collect``. So the
next one can be scheduled and launched meanwhile: it takes the tokens it needs from the device.
"""

import time
from dataclasses import dataclass

import torch

from ..kernels import Backend, Event, Program
from ..kernels.sampling_batch import TOP_WIDTH, Sampled, SamplingBatch
from .chunk import Chunk
from .grammar import Matcher
from .limits import Limits
from .model_step import Capture, ModelStep, ScoredRows
from .models.decoder import DecoderModel
from .models.dtypes import Dtypes
from .prompt_logprobs import PromptScorer
from .sampling_buffers import SamplingBuffers
from .sampling_results import HostSampled
from .sequence import Sequence
from .staging import StagingBuffer


@dataclass
class Launched:
    """A step under way."""

    chunks: list[Chunk]
    samples: int
    event: Event
    results: HostSampled  # readable once the event is over; row i is that of sample i


class Runner:
    """Runs steps. Knows tokens and pages; who runs is the scheduler's business."""

    def __init__(
        self,
        model: DecoderModel,
        backend: Backend,
        limits: Limits,
        dtypes: Dtypes,
        device: torch.device,
        capture: Capture | None = None,
    ) -> None:
        """``capture``: records the programs that other ranks have as well; None: the backend's. Raises Unsupported."""
        capture = capture or backend.capture
        self._model = model
        self._backend = backend
        self.vocab_size = model.config.vocab_size
        self.waited_s = 0.0  # in all, for the device; the rest of a step's time is the host's
        samples = limits.max_samples
        self._step = ModelStep(model, backend, limits, dtypes, device)
        self._inputs, self._hidden, self.cache = self._step.inputs, self._step.hidden, self._step.cache
        self._results = _results_buffer(samples, device)
        self._sampled = Sampled(**self._results.device)
        # Without a graph for each, the recorded head samples with the fields that nearly all requests need.
        self._records_all = backend.records_any_size
        self._sampling = SamplingBuffers(
            limits.max_sequences, samples, self.vocab_size, device, limits.max_logit_bias, self._records_all
        )
        self._body, self._adapted_body = self._step.capture_bodies(capture, self._take_tokens)
        self._head = capture(self._run_recorded_head, self._step.head_rows)
        scored = ScoredRows(model, self._hidden, limits, device)
        self._scorer = PromptScorer(scored, backend, self.vocab_size, device, capture)

    def start(self, sequence: Sequence, matcher: Matcher | None = None) -> None:
        """Take in a sequence that begins to run; ``matcher`` if it has a grammar."""
        self._inputs.start(sequence)
        self._sampling.start(sequence, matcher)

    @torch.inference_mode()
    def launch(self, chunks: list[Chunk]) -> Launched:
        """Begin a step. At most one other may be under way, launched before."""
        copy, body = self._backend.copy, self._body
        if any(chunk.sequence.adapter for chunk in chunks):
            # Rows of one adapter side by side: its matrices are read once for them.
            chunks = sorted(chunks, key=lambda chunk: chunk.sequence.adapter)
            body = self._adapted_body
        size = self._inputs.stage(chunks)
        self._inputs.upload(copy)
        body.launch(size.rows, size.sequences)
        self._scorer.score(chunks)
        results = HostSampled(**self._results.turn())
        if size.samples:
            rows = [
                (chunk.sequence, chunk.sequence.total + index)
                for chunk in chunks if chunk.samples for index in range(len(chunk.drafts) + 1)
            ]  # fmt: skip
            self._sampling.stage(rows)
            batch = self._sampling.upload(copy)
            if self._records_all or not batch.full:
                self._head.launch(size.samples)
            else:
                self._run_head(size.samples, batch)
            self._results.download(copy, "logprobs" if _details_missing(chunks) else "top_logprobs")
        return Launched(chunks, size.samples, self._backend.Event(), results)

    def collect(self, launched: Launched) -> HostSampled:
        """Wait for a step. Returns what was sampled, to be read before the next but one is launched."""
        begin = time.perf_counter()
        launched.event.wait()
        self.waited_s += time.perf_counter() - begin
        return launched.results

    def hidden(self, start: int, end: int) -> torch.Tensor:
        """What the last step launched made of some of its rows, [rows, hidden_size]: a copy, once it is there."""
        self._backend.Event().wait()
        return self._hidden[start:end].clone()

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of rows that ``hidden`` gave, fp32 [rows, vocab]: for measurements; no request gets them all."""
        return self._model.head(hidden, torch.arange(len(hidden), device=hidden.device))

    @property
    def linear_bytes(self) -> int:
        """What a step reads of weights."""
        return self._model.linear_bytes

    @property
    def programs(self) -> tuple[Program, Program]:
        """What a step launches: body and head."""
        return self._body, self._head

    def _take_tokens(self, rows: int) -> None:
        inputs = self._inputs
        self._backend.take_tokens(inputs.token_ids[:rows], inputs.sources[:rows], self._sampled.token_ids)

    def _run_recorded_head(self, samples: int) -> None:
        self._run_head(samples, self._sampling.full_batch if self._records_all else self._sampling.plain_batch)

    def _run_head(self, samples: int, batch: SamplingBatch) -> None:
        logits = self._step.logits(samples)
        sampled = self._backend.sample(logits, batch, self._sampled)
        token_ids, counts_rows = sampled.token_ids[:samples], batch["counts_row"][:samples]
        self._backend.count_tokens(batch.token_counts, counts_rows, token_ids)
        if batch.full:
            self._backend.count_tokens(batch.output_counts, counts_rows, token_ids)


def _results_buffer(samples: int, device: torch.device) -> StagingBuffer:
    """Memory of Sampled, what every request needs first."""
    return StagingBuffer(
        {
            "token_ids": ((samples,), torch.int64),
            "logprobs": ((samples, 2), torch.float32),
            "top_ids": ((samples, 2, TOP_WIDTH), torch.int64),
            "top_logprobs": ((samples, 2, TOP_WIDTH), torch.float32),
        },
        device,
    )


def _details_missing(chunks: list[Chunk]) -> bool:
    return not any(c.samples and (c.sequence.sampling.top_n or c.sequence.sampling.raw_logprobs) for c in chunks)
