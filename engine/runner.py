"""From the chunks of a step to its tokens: the model, the cache and the sampler on one device.

A step is staged in host memory and launched as a few recorded programs; nothing waits for it before ``collect``. So the
next one can be scheduled and launched meanwhile: it takes the tokens it needs from the device.
"""

import time
from dataclasses import dataclass

import torch

from ..kernels import TOP_WIDTH, Backend, Event, Program, Sampled, SamplingBatch, TopTokens
from .block import Block
from .chunk import Chunk
from .grammar import Matcher
from .limits import Limits
from .models import DecoderModel, Dtypes, KVCache
from .prompt_logprobs import PromptScorer
from .sampling_buffers import SamplingBuffers
from .sampling_results import HostSampled
from .sequence import Sequence
from .step_buffers import StepBuffers


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
        self, model: DecoderModel, backend: Backend, limits: Limits, dtypes: Dtypes, device: torch.device
    ) -> None:
        self._model = model
        self._backend = backend
        self.vocab_size = model.config.vocab_size
        self.waited_s = 0.0  # in all, for the device; the rest of a step's time is the host's
        self.cache = KVCache(model.config, limits.num_pages, limits.page_size, dtypes.rows, device)
        config, samples = model.config, limits.max_samples
        self._inputs = StepBuffers(limits, samples, device)
        self._plans = {
            window: backend.new_plan(
                limits.max_rows, limits.max_sequences, limits.max_total_tokens, config.num_q_heads,
                config.num_kv_heads, config.head_dim, limits.page_size, device, window,
            )
            for window in model.windows
        }  # fmt: skip
        self._hidden = torch.zeros(limits.max_rows, config.hidden_size, dtype=dtypes.rows, device=device)
        self._results = _result_block(samples, device)
        self._sampled = _sampled_of(self._results.device)
        # Without a graph for every set of fields, the recorded head samples with those that nearly all requests need.
        self._records_all = backend.records_any_size
        self._sampling = SamplingBuffers(
            limits.max_sequences, samples, self.vocab_size, device, limits.max_logit_bias, self._records_all
        )
        body_rows, head_rows = limits.graph_rows, limits.graph_rows
        if backend.records_any_size:
            body_rows, head_rows = (limits.max_rows,), (samples,)
        self._body = backend.capture(self._run_body, body_rows)
        self._head = backend.capture(self._run_recorded_head, head_rows)
        self._scorer = PromptScorer(model, backend, self._hidden, limits, device)

    def start(self, sequence: Sequence, matcher: Matcher | None = None) -> None:
        """Take in a sequence that begins to run; ``matcher`` if it has a grammar."""
        self._inputs.start(sequence)
        self._sampling.start(sequence, matcher)

    @torch.inference_mode()
    def launch(self, chunks: list[Chunk]) -> Launched:
        """Begin a step. At most one other may be under way, launched before."""
        copy = self._backend.copy
        size = self._inputs.stage(chunks)
        self._inputs.upload(copy)
        self._body.launch(size.rows, size.sequences)
        self._scorer.score(chunks)
        results = HostSampled(**{name: array for name, array in self._results.turn().items() if name in _TOLD})
        if size.samples:
            rows = [
                (chunk.sequence, chunk.sequence.total + index)
                for chunk in chunks if chunk.samples for index in range(len(chunk.drafts) + 1)
            ]  # fmt: skip
            self._sampling.stage(rows)
            batch = self._sampling.upload(copy)
            if self._records_all or _is_plain(batch):
                self._head.launch(size.samples)
            else:
                self._run_head(size.samples, batch)
            self._results.download(copy, "logprobs" if _details_missing(chunks) else "raw_top_logprobs")
        return Launched(chunks, size.samples, self._backend.Event(), results)

    def collect(self, launched: Launched) -> HostSampled:
        """Wait for a step. Returns what was sampled, to be read before the next but one is launched."""
        begin = time.perf_counter()
        launched.event.wait()
        self.waited_s += time.perf_counter() - begin
        return launched.results

    @property
    def linear_bytes(self) -> int:
        """What a step reads of weights."""
        return self._model.linear_bytes

    @property
    def programs(self) -> tuple[Program, Program]:
        """What a step launches: body and head."""
        return self._body, self._head

    def _run_body(self, rows: int) -> None:
        inputs, batch = self._inputs, self._inputs.batch(rows)
        self._backend.take_tokens(inputs.token_ids[:rows], inputs.sources[:rows], self._sampled.token_ids)
        for plan in self._plans.values():
            self._backend.fill_plan(plan, batch)
        self._model.body(inputs.token_ids[:rows], batch, self._plans, self.cache, self._hidden[:rows])

    def _run_recorded_head(self, samples: int) -> None:
        batch = self._sampling.batch() if self._records_all else self._sampling.plain_batch(samples)
        self._run_head(samples, batch)

    def _run_head(self, samples: int, batch: SamplingBatch) -> None:
        logits = self._model.head(self._hidden, self._inputs.last_rows[:samples])
        sampled = self._backend.sample(logits, batch, self._sampled)
        token_ids = sampled.token_ids[:samples]
        self._backend.count_tokens(self._sampling.token_counts, batch.seen[:samples], token_ids)
        if batch.output_counts is not None:
            self._backend.count_tokens(batch.output_counts, batch.seen[:samples], token_ids)


def _result_block(samples: int, device: torch.device) -> Block:
    """Memory of Sampled, what every request needs first."""
    lists = {
        f"{kind}top_{what}": ((samples, TOP_WIDTH), dtype)
        for kind in ("", "raw_") for what, dtype in (("ids", torch.int64), ("logprobs", torch.float32))
    }  # fmt: skip
    fields = {
        "token_ids": ((samples,), torch.int64),
        "logprobs": ((samples,), torch.float32),
        "ranks": ((samples,), torch.int32),
        "raw_logprobs": ((samples,), torch.float32),
        "raw_ranks": ((samples,), torch.int32),
        **lists,
    }
    return Block(fields, device)


def _sampled_of(fields: dict[str, torch.Tensor]) -> Sampled:
    return Sampled(
        fields["token_ids"], fields["logprobs"], fields["ranks"], fields["raw_logprobs"], fields["raw_ranks"],
        TopTokens(fields["top_ids"], fields["top_logprobs"]),
        TopTokens(fields["raw_top_ids"], fields["raw_top_logprobs"]),
    )  # fmt: skip


_TOLD = HostSampled.__dataclass_fields__


def _is_plain(batch: SamplingBatch) -> bool:
    return all(getattr(batch, name) is None for name in SamplingBatch.__dataclass_fields__ if name in _OPTIONAL)


def _details_missing(chunks: list[Chunk]) -> bool:
    return not any(c.samples and (c.sequence.sampling.top_n or c.sequence.sampling.raw_logprobs) for c in chunks)


_OPTIONAL = tuple(
    name for name, field in SamplingBatch.__dataclass_fields__.items() if field.default is None
)  # what costs nothing where it is None
