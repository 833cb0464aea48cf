"""Steps of the engine's runner over an 8B-shaped model with random weights: graphs, uploads and the read-back included.

Where what the engine needs is installed. Decodes are launched as the engine does it, a step before the tokens of the
one before it are read; a prompt's chunk or a mixed step again and again, each read before the next.
"""

import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from ....kernels import load_backend
from .figures import HEAD_DIM, HIDDEN, INTERMEDIATE, KV_HEADS, PAGE_SIZE, VOCAB
from .setup import Figure, Results, Setup, Skipped

if TYPE_CHECKING:
    from ....engine.chunk import Chunk
    from ....engine.runner import Launched, Runner

LAYERS = 32
_RESERVE_BYTES = 5 << 30  # of memory, for what is neither weights nor cache
_SHORTEST = 4096  # tokens: less of a cache is not worth a run
_KERNELS_LISTED = 16
_STEPS, _QUICK_STEPS = 30, 10  # of a case
_FIRST = 2  # of these that do not count: the caches are cold
_LINEAR_WEIGHTS = LAYERS * HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * HEAD_DIM + 3 * INTERMEDIATE) + VOCAB * HIDDEN
_KV_BYTES = LAYERS * 2 * KV_HEADS * HEAD_DIM * 2  # of a token


class _Case(NamedTuple):
    """Decoding sequences (how many, tokens of each), and a chunk (its first token, its tokens)."""

    decodes: int = 0
    tokens: int = 0
    start: int = 0
    chunk: int = 0

    @property
    def name(self) -> str:
        chunk = f"chunk of {self.chunk}" + (f" after {self.start}" if self.start else "")
        decode = f"decode {self.decodes} x {self.tokens}"
        return " and ".join(part for part, there in ((chunk, self.chunk), (decode, self.decodes)) if there)

    @property
    def cache_tokens(self) -> int:
        room = 64 + PAGE_SIZE  # each decoding sequence grows
        return self.decodes * (self.tokens + room) + self.start + self.chunk + PAGE_SIZE

    @property
    def least_bytes(self) -> int:
        """Weights, and the KV that is read."""
        seen = self.decodes * self.tokens + (self.start + self.chunk if self.chunk else 0)
        return 2 * _LINEAR_WEIGHTS + _KV_BYTES * seen

    @property
    def flops(self) -> int:
        """Of the linears; the head's of one row for each sequence."""
        head = VOCAB * HIDDEN
        rows = self.decodes + self.chunk
        return 2 * (rows * (_LINEAR_WEIGHTS - head) + (self.decodes + bool(self.chunk)) * head)


_QUICK = (_Case(1, 1024), _Case(64, 1024), _Case(chunk=2048))
_CASES = (
    *_QUICK, _Case(8, 1024), _Case(256, 1024), _Case(8, 8192), _Case(32, 8192),
    _Case(chunk=128), _Case(start=14336, chunk=2048), _Case(start=30720, chunk=2048),
    _Case(64, 1024, chunk=512), _Case(64, 1024, chunk=1984), _Case(start=32768, chunk=60),
    _Case(64, 1024, start=32768, chunk=60),
)  # fmt: skip


def make_8b(setup: Setup, tokens: int, exact: bool = True) -> tuple["Runner", int]:
    """A runner of Llama-3.1-8B's shape, and how many tokens of the ``tokens`` its cache has. Raises Skipped.

    ``exact``: of load_backend.
    """
    try:
        from ..dry_run.models import make_runner
    except ImportError as error:
        raise Skipped(f"the engine's runner needs more than torch and triton: {error}") from error
    free = torch.cuda.mem_get_info()[0] - 2 * (_LINEAR_WEIGHTS + VOCAB * HIDDEN) - _RESERVE_BYTES
    tokens = min(tokens, free // _KV_BYTES)
    if tokens < _SHORTEST:
        raise Skipped("not enough free memory for the model")
    runner = make_runner(
        "llama-3.1-8b", load_backend("triton", exact), setup.device,
        lambda shape: torch.empty(shape, dtype=setup.dtype, device=setup.device).normal_(std=0.02),
        num_layers=LAYERS, kv_cache_bytes=(tokens + PAGE_SIZE) * _KV_BYTES, max_total_tokens=min(32768 + 2048, tokens),
        graph_rows=(1, 8, 32, 64, 256),
    )  # fmt: skip
    return runner, tokens


def figures_of_runner(setup: Setup) -> Results:
    """Wall time of a step, and the host's until it is launched. Raises Skipped."""
    cases = _QUICK if setup.quick else _CASES
    runner, tokens = make_8b(setup, max(case.cache_tokens for case in cases))
    left_out = []
    for case in cases:
        if case.cache_tokens > tokens:
            left_out.append(case.name)
            continue
        step_s, launch_s = _run(runner, case, _QUICK_STEPS if setup.quick else _STEPS)
        note = f"{(case.decodes + case.chunk) / step_s:,.0f} tokens/s"
        yield Figure(f"step: {case.name}", step_s, case.least_bytes, case.flops, note)
        yield Figure(f"step: {case.name}, host until launched", launch_s)
    if left_out:
        raise Skipped(f"no room in the cache for {', '.join(left_out)}")


def figures_of_vendors_linears(setup: Setup) -> Results:
    """Steps as with --no-exact: what exactness costs, beside those of ``figures_of_runner``. Raises Skipped."""
    cases = (_Case(64, 1024), _Case(chunk=2048))
    runner, _ = make_8b(setup, max(case.cache_tokens for case in cases), exact=False)
    for case in cases:
        step_s, _ = _run(runner, case, _QUICK_STEPS)
        note = f"{(case.decodes + case.chunk) / step_s:,.0f} tokens/s"
        yield Figure(f"step, vendor's linears: {case.name}", step_s, case.least_bytes, case.flops, note)


def _start(runner: "Runner", case: _Case) -> tuple["Launched | None", list["Chunk"]]:
    from ..dry_run.__main__ import StepShape, begin

    chunks = ((case.start, case.chunk),) if case.chunk else ()
    return begin(runner, StepShape(case.name, (case.tokens,) * case.decodes, chunks))


def _run(runner: "Runner", case: _Case, steps: int) -> tuple[float, float]:
    """Medians: seconds of a step, and until it is launched."""
    last, chunks = _start(runner, case)
    step_s, launch_s = [], []
    for _ in range(steps):
        start = time.perf_counter()
        launched = runner.launch(chunks)
        launch_s.append(time.perf_counter() - start)
        if last is not None:
            runner.collect(last)
        if case.chunk:
            runner.collect(launched)
        step_s.append(time.perf_counter() - start)
        last = None if case.chunk else launched
        if not case.chunk:
            chunks = _next(chunks)
    if last is not None:
        runner.collect(last)
    return statistics.median(step_s[_FIRST:]), statistics.median(launch_s[_FIRST:])


def _next(chunks: list["Chunk"]) -> list["Chunk"]:
    from ....engine.chunk import Chunk

    for chunk in chunks:
        chunk.sequence.tokens.append(0)
        chunk.sequence.computed += 1
    return [Chunk(chunk.sequence, chunk.sequence.computed, 1) for chunk in chunks]


def figures_of_kernels(setup: Setup) -> Results:
    """How a step divides into kernels, as torch's profiler has it: time of each in all its launches. Raises Skipped."""
    cases = (_Case(64, 1024), _Case(chunk=2048))
    runner, _ = make_8b(setup, max(case.cache_tokens for case in cases))
    steps = 4
    for case in cases:
        _run(runner, case, steps)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            _run(runner, case, steps)
            torch.cuda.synchronize()
        found = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
        for event in found[:_KERNELS_LISTED]:
            name = f"of {case.name}: {event.key[:60]}"
            yield Figure(name, event.self_device_time_total * 1e-6 / steps, note=f"{event.count // steps} launches")
