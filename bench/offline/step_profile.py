"""`headwater bench profile`: where a step's time goes: the host's share, and each kernel's (cpu backend)."""

import gc
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from ...engine.checkpoint.quantized import QuantizeName
from ...engine.checkpoint.resolve import resolve_model
from ...engine.config import ActivationDtype, EngineConfig
from ...engine.engine import Engine
from ...engine.frames import encode_frame
from ...engine.messages import SamplingParams, Submit
from ...engine.start import start_engine

CONNECTION = 0
SETTLE_STEPS = 4  # until prompts are through


def profile(
    model: str | None,
    batches: list[int],
    context: int,
    steps: int,
    activation_dtype: ActivationDtype | None,
    quantize: QuantizeName | None,
) -> None:
    """Print a table for each batch. Raises ModelError."""
    found = resolve_model(model)
    config = EngineConfig(
        model_dir=found.directory, model_id=found.model_id, socket=Path("unused"), device="cpu", backend="cpu",
        max_batch_size=max(batches), activation_dtype=activation_dtype, quantize=quantize,
    )  # fmt: skip
    engine, _ = start_engine(config)
    gc.collect()
    gc.freeze()
    for batch in batches:
        print("\n" + _table(engine, batch, context, steps), flush=True)


def _table(engine: Engine, batch: int, context: int, steps: int) -> str:
    """Decoding steps of ``batch`` sequences, Markdown. Times are medians, so they need not add up exactly."""
    sampling = SamplingParams(steps + SETTLE_STEPS + 16 + context * batch // 64, greedy=True)
    for request_id in range(batch):
        prompt_ids = [(request_id * 7919 + i * 31) % 1000 + 10 for i in range(context)]
        failed = engine.submit(CONNECTION, Submit(request_id, prompt_ids, sampling))
        assert failed is None, failed
    while _decoded(engine) < batch:
        assert engine.has_work, "a sequence ended before all of them were decoding"
    for _ in range(SETTLE_STEPS):
        engine.step()
    runner = engine.runner
    step_s, host_s, frame_s = [], [], []
    kernels: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(steps):
        waited, begin = runner.waited_s, time.perf_counter()
        told = engine.step()
        end = time.perf_counter()
        for step in told.values():
            encode_frame(step)
        frame_s.append(time.perf_counter() - end)
        step_s.append(end - begin)
        host_s.append(end - begin - (runner.waited_s - waited))
    for _ in range(8):  # reading a launch's times ends the overlap, so these are steps of their own
        engine.step()
        times: defaultdict[str, float] = defaultdict(float)
        for program in runner.programs:
            for name, seconds in program.seconds().items():  # type: ignore[attr-defined] # the cpu backend's
                times[name] += seconds
        for name, seconds in times.items():
            kernels[name].append(seconds)
    engine.abort_all(CONNECTION)
    while engine.has_work:
        engine.step()
    rows = [("step", median(step_s)), ("host, beside the kernels", median(host_s)), ("frames", median(frame_s))]
    rows += sorted(((name, median(values)) for name, values in kernels.items()), key=lambda row: -row[1])
    lines = [f"| {batch} sequences, {context} tokens and more | ms |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {seconds * 1e3:.2f} |" for name, seconds in rows])


def _decoded(engine: Engine) -> int:
    """Tokens of one step."""
    return sum(len(step.tokens) for step in engine.step().values())
