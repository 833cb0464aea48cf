"""The distributions of an engine over a text: prompts in chunks through the scheduler, runner and cache that serve."""

import math
from pathlib import Path
from typing import Literal

import torch
from msgspec import Struct

from ...engine.checkpoint.quantized import QuantizeName
from ...engine.checkpoint.resolve import resolve_model
from ...engine.chunk import Chunk
from ...engine.config import ActivationDtype, EngineConfig, KvCacheDtype
from ...engine.messages import SamplingParams, Submit
from ...engine.start import start_engine

DtypeName = Literal["bfloat16", "float16", "float32"]
_CONNECTION = 0


class Settings(Struct, frozen=True, kw_only=True):
    """What makes a difference; the fields are those of EngineConfig."""

    model: str | None = None
    dtype: DtypeName | None = None
    activation_dtype: ActivationDtype | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    quantize: QuantizeName | None = None


class EngineLogprobs:
    """One setting's distributions of a text, window by window; see LogitsFile for what both can be asked."""

    least_logprob = -math.inf

    def __init__(
        self, settings: Settings, context: int, device: Literal["cpu", "cuda"] | None, threads: int | None
    ) -> None:
        """Raises ModelError. ``context``: tokens of a window."""
        found = resolve_model(settings.model)
        self.directory = found.directory
        config = EngineConfig(
            model_dir=found.directory, model_id=found.model_id, socket=Path("unused"), device=device, threads=threads,
            dtype=settings.dtype, activation_dtype=settings.activation_dtype, quantize=settings.quantize,
            kv_cache_dtype=settings.kv_cache_dtype, max_batch_size=1, max_total_tokens=context, prefix_cache=False,
        )  # fmt: skip
        self._engine, self.hello = start_engine(config)
        self.vocab_size = self.hello.vocab_size
        if self.hello.max_total_tokens < context:
            raise ValueError(f"{found.model_id}: up to {self.hello.max_total_tokens} tokens, fewer than {context}")
        self._hidden = torch.empty(0)

    def read(self, window: int, token_ids: list[int]) -> None:
        """Compute a window, from nothing."""
        del window
        engine, prompt, first = self._engine, token_ids[:-1], len(token_ids) // 2
        scheduled: list[Chunk] = []
        engine.before_step = scheduled.extend
        failed = engine.submit(_CONNECTION, Submit(0, prompt, SamplingParams(1, greedy=True)))
        assert failed is None, failed
        kept: list[torch.Tensor] = []
        while engine.has_work:
            scheduled.clear()
            engine.step()
            for chunk in scheduled:
                begin, end = max(first, chunk.start), min(len(prompt), chunk.start + chunk.count)
                if begin < end:
                    kept.append(engine.runner.hidden(begin - chunk.start, end - chunk.start))
        self._hidden = torch.cat(kept)
        assert len(self._hidden) == len(prompt) - first, "each position once"

    def logprobs(self, start: int, end: int) -> torch.Tensor:
        """Natural logs, fp64 [rows, vocab], of some rows of the window's second half, on the device."""
        return self._engine.runner.logits(self._hidden[start:end]).double().log_softmax(-1)
