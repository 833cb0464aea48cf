"""`headwater bench offline`: the engine in this process, without HTTP: how long a step takes at each size."""

import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ...api.launch.adapters import resolve_adapters
from ...engine.checkpoint.quantized import QuantizeName
from ...engine.checkpoint.resolve import resolve_model
from ...engine.config import ActivationDtype, EngineConfig, KvCacheDtype
from ...engine.engine import Engine
from ...engine.messages import Hello, SamplingParams, Submit
from ...engine.models.families import read_config
from ...engine.start import start_engine
from ..emit import emit
from ..options import ReportOptions
from .offline_report import Grid, Prefill, make_cell, offline_report
from .roofline import read_bandwidth
from .state import State, model_state

DtypeName = Literal["bfloat16", "float16", "float32"]
CONNECTION = 0
PREFILL_ROWS = {"cpu": 512, "cuda": 4096}  # of a step
SETTLE_STEPS = 3  # until what was launched for another batch is through


class Decoding:
    """Sequences of one context in an engine, all of them decoding."""

    def __init__(self, engine: Engine, prompts: list[list[int]], new_tokens: int) -> None:
        self._engine = engine
        self._lengths = [len(prompt) for prompt in prompts]
        # The adapters in turn, if there are any.
        listed = () if engine.adapters is None else engine.adapters.listed.adapters
        for request_id, prompt in enumerate(prompts):
            adapter = listed[request_id % len(listed)].name if listed else None
            sampling = SamplingParams(new_tokens, greedy=True, adapter=adapter)
            failed = engine.submit(CONNECTION, Submit(request_id, prompt, sampling))
            assert failed is None, failed

    def prefill(self) -> float:
        """Until every sequence has a token. Returns seconds."""
        begin = time.perf_counter()
        first = list(self._lengths)
        while any(length == prompt for length, prompt in zip(self._lengths, first, strict=True)):
            self._step()
        return time.perf_counter() - begin

    def shrink(self, batch: int) -> None:
        """Drop the sequences that came last."""
        for request_id in range(batch, len(self._lengths)):
            self._engine.abort(CONNECTION, request_id)
        del self._lengths[batch:]

    def measure(self, steps: int) -> tuple[list[float], list[int]]:
        """Seconds of each step, and every sequence's length in the middle of them."""
        for _ in range(SETTLE_STEPS):
            self._step()
        before = list(self._lengths)
        seconds = [self._step() for _ in range(steps)]
        return seconds, [(a + b) // 2 for a, b in zip(before, self._lengths, strict=True)]

    def close(self) -> None:
        """Leave the engine idle."""
        self._engine.abort_all(CONNECTION)
        while self._engine.has_work:
            self._engine.step()

    def _step(self) -> float:
        begin = time.perf_counter()
        step = self._engine.step().get(CONNECTION)
        seconds = time.perf_counter() - begin
        for tokens in step.tokens if step else []:
            if tokens.request_id < len(self._lengths):  # not one that was dropped meanwhile
                self._lengths[tokens.request_id] += len(tokens.token_ids)
        return seconds


def offline(
    model: str | None,
    batches: list[int],
    contexts: list[int],
    steps: int,
    prefill_limit_s: float,
    device: Literal["cpu", "cuda"] | None,
    dtype: DtypeName | None,
    activation_dtype: ActivationDtype | None,
    kv_cache_dtype: KvCacheDtype,
    threads: int | None,
    quantize: QuantizeName | None,
    lora_adapters: str,
    report_options: ReportOptions,
) -> None:
    """Measure and report. Raises ModelError."""
    found = resolve_model(model)
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = PREFILL_ROWS[kind]
    config = EngineConfig(
        model_dir=found.directory,
        model_id=found.model_id,
        socket=Path("unused"),
        device=kind,
        dtype=dtype,
        activation_dtype=activation_dtype,
        kv_cache_dtype=kv_cache_dtype,
        max_batch_size=max(batches),
        max_batch_prefill_tokens=rows,
        max_total_tokens=max(contexts) + room(max(batches), max(contexts), len(batches), steps, rows),
        threads=threads,
        quantize=quantize,
        adapters=resolve_adapters(lora_adapters, found.model_id),
        prefix_cache=False,  # every sequence reads pages of its own
    )
    engine, hello = start_engine(config)
    roof = read_bandwidth(torch.device(kind))
    print(f"memory: {roof / 1e9:.1f} GB/s", flush=True)
    state = model_state(read_config(found.directory), engine.runner.linear_bytes, hello.kv_cache_dtype)
    grid = Grid(roof)
    _warm_up(engine, max(batches), hello.max_total_tokens)
    try:
        for context in sorted(contexts):
            measure_context(engine, hello, state, grid, context, batches, steps, rows, prefill_limit_s)
    except KeyboardInterrupt:
        grid.notes.append("Interrupted: the rest was not measured.")
    # Once more: what else ran on the machine may have taken a part of it.
    grid.set_roof(max(roof, read_bandwidth(torch.device(kind))))
    emit(offline_report(grid, hello, state), report_options)


def _warm_up(engine: Engine, batch: int, max_total_tokens: int) -> None:
    """The engine warmed up what it serves most; a full batch of decodes is what is measured here."""
    decoding = Decoding(engine, [[0, 0]] * batch, min(64, max_total_tokens - 2))
    decoding.prefill()
    decoding.measure(1)
    decoding.close()


def room(batch: int, context: int, batches: int, steps: int, rows: int) -> int:
    """Tokens that the first sequence makes: while the others' prompts are computed, and while it is measured."""
    return -(-batch * context // max(1, rows - batch)) + batches * (steps + SETTLE_STEPS) + 8


def measure_context(
    engine: Engine,
    hello: Hello,
    state: State,
    grid: Grid,
    context: int,
    batches: list[int],
    steps: int,
    rows: int,
    prefill_limit_s: float,
) -> None:
    """All batch sizes at one context: the largest is filled once, then sequences are dropped."""
    speed = min((prefill.tokens_per_s for prefill in grid.prefills), default=float("inf"))
    fitting = []
    prompt_tokens, spare = context, 0
    for batch in sorted(batches):
        spare_here = room(batch, context, len(batches), steps, rows)
        prompt_here = min(context, hello.max_total_tokens - spare_here)
        pages = batch * -(-(prompt_here + spare_here) // hello.page_size)
        too_long = batch * context / speed > prefill_limit_s and batch > min(batches)
        if prompt_here < 1 or batch > hello.max_sequences or pages > hello.num_pages or too_long:
            reason = f"its prompts would take more than {prefill_limit_s:g} s" if too_long else "the cache is too small"
            grid.notes.append(f"Context {context}: batch {batch} and more left out, {reason}.")
            break
        fitting.append(batch)
        prompt_tokens, spare = prompt_here, spare_here
    if not fitting:
        return
    random = np.random.default_rng(context)
    prompts = random.integers(0, hello.vocab_size, (fitting[-1], prompt_tokens)).tolist()
    decoding = Decoding(engine, prompts, spare)
    try:
        seconds = decoding.prefill()
        grid.prefills.append(Prefill(context, fitting[-1], fitting[-1] * prompt_tokens / seconds))
        for batch in reversed(fitting):
            decoding.shrink(batch)
            cell = make_cell(context, *decoding.measure(steps), state, grid.roof)
            grid.cells.append(cell)
            print(
                f"batch {batch}, context {cell.mean_context:.0f}: {cell.step_ms:.2f} ms a step, "
                f"{cell.tokens_per_s:.0f} tokens/s, {cell.bandwidth / 1e9:.1f} GB/s",
                flush=True,
            )
    finally:
        decoding.close()
