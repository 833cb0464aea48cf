"""The parts of the GPU command, and the process that runs them.

Parts run in a process of their own. An error of the device leaves that process useless, a crash ends it, a kernel that
never returns blocks it: the parent notes the part's error and starts another process with the parts that are left.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal, NamedTuple

import torch

from . import baselines as baselines
from . import check_attention as attention
from . import check_blocks as blocks
from . import check_exact as exact
from . import check_rows as rows
from . import check_sampling as sampling
from . import decode as decode
from . import figures as figures
from . import figures_attention as attention_figures
from . import runner as runner
from . import server as server
from .interpreted import dots_in_float64
from .setup import Comparison, Figure, Result, Results, Setup, Skipped

PART_LIMIT_S = 100.0  # a part's kernels are compiled in it
_KILL_S = 10.0  # for a process that has ended to be gone
_DEVICE_ERRORS = ("CUDA error", "Triton Error [CUDA]")  # torch's and Triton's words


class Part(NamedTuple):
    """A name and what to run; times can only be taken on a GPU."""

    name: str
    run: Callable[[Setup], Results]
    needs_gpu: bool = False
    limit_s: float = PART_LIMIT_S


# In order of importance: what there is no time for is at the end.
PARTS = (
    Part("roofs", figures.figures_of_roofs, needs_gpu=True),
    Part("check attention", attention.check_attention),
    Part("check sampling", sampling.check_sampling),
    Part("check rope and write", rows.check_rope_and_write),
    Part("server", server.figures_of_server, needs_gpu=True, limit_s=260.0),
    Part("check norms", rows.check_norms),
    Part("check layer norms", rows.check_layer_norms),
    Part("check activations", rows.check_activations),
    Part("few rows attention", attention_figures.figures_of_decode_attention, needs_gpu=True),
    Part("many rows attention", attention_figures.figures_of_prefill_attention, needs_gpu=True),
    Part("sampling", figures.figures_of_sampling, needs_gpu=True),
    Part("decode step", decode.figures_of_decode_step, needs_gpu=True),
    Part("runner", runner.figures_of_runner, needs_gpu=True),
    Part("runner, vendor's linears", runner.figures_of_vendors_linears, needs_gpu=True),
    Part("step by kernel", runner.figures_of_kernels, needs_gpu=True),
    Part("check linears", rows.check_linears),
    Part("check exact linears", exact.check_exact_linears),
    Part("check exact engine", exact.check_exact_engine),
    Part("check blocks", blocks.check_blocks),
    Part("check invariance", attention.check_invariance),
    Part("baselines", baselines.figures_of_baselines, needs_gpu=True),
    Part("merge and plan", attention_figures.figures_of_merge_and_plan, needs_gpu=True),
    Part("rows", figures.figures_of_rows, needs_gpu=True),
    Part("linears", figures.figures_of_linears, needs_gpu=True),
    Part("blocks", figures.figures_of_blocks, needs_gpu=True),
    Part("check sampling alone", sampling.check_sampling_alone),
    Part("check sampling cases", sampling.check_sampling_cases),
    Part("check norm of all heads", rows.check_norm_of_all_heads),
    Part("check fp8 pages", rows.check_fp8_pages),
    Part("check fp8 attention", attention.check_fp8_attention),
    Part("check odd attention", attention.check_odd_attention),
    Part("check other blocks", blocks.check_other_blocks),
    Part("check draws", sampling.check_draws),
    Part("8-bit server", server.figures_of_8_bit_server, needs_gpu=True, limit_s=260.0),
)


# failed: a comparison does not hold; late: there was no time for it
Status = Literal["ok", "failed", "error", "skipped", "late"]


class Outcome(NamedTuple):
    """What became of a part."""

    name: str
    status: Status
    seconds: float = 0.0
    comparisons: tuple[Comparison, ...] = ()
    figures: tuple[Figure, ...] = ()
    reason: str = ""  # why skipped, or the error with its traceback
    peak_bytes: int = 0  # of the device's memory, in this part's process


def _outcome(name: str, status: Status, begin: float, found: Sequence[Result], reason: str, peak: int = 0) -> Outcome:
    comparisons = tuple(each for each in found if isinstance(each, Comparison))
    figures = tuple(each for each in found if isinstance(each, Figure))
    if status == "ok" and not all(comparison.holds for comparison in comparisons):
        status = "failed"
    return Outcome(name, status, time.monotonic() - begin, comparisons, figures, reason, peak)


def run_part(part: Part, setup: Setup, tell: Callable[[Result], object] = lambda _: None) -> Outcome:
    """Run one part here; whatever it raises is its outcome, and what it had found until then is kept.

    ``tell`` gets each result as it comes.
    """
    begin = time.monotonic()
    found: list[Result] = []
    status: Status = "ok"
    reason = ""
    try:
        with nullcontext() if setup.device.type == "cuda" else dots_in_float64():
            for result in part.run(setup):
                found.append(result)
                tell(result)
    except Skipped as skipped:
        status, reason = "skipped", str(skipped)
    except Exception:  # the report is where it is handled
        status, reason = "error", traceback.format_exc()
    return _outcome(part.name, status, begin, found, reason)


def _end(process: BaseProcess) -> None:
    """End a process and what it started: a server would keep the device's memory."""
    assert process.pid
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _work(connection: Connection, parts: list[Part], setup: Setup) -> None:
    """The process: run parts in order, send each result as it comes, and what became of each part."""
    os.setpgid(0, 0)
    on_gpu = setup.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(setup.device)
    for part in parts:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        outcome = run_part(part, setup, connection.send)
        if outcome.status == "error" and any(text in outcome.reason for text in _DEVICE_ERRORS):
            connection.send(outcome)
            return  # nothing works on the device in this process any more
        connection.send(outcome._replace(peak_bytes=torch.cuda.max_memory_allocated()) if on_gpu else outcome)
        if on_gpu:
            torch.cuda.empty_cache()


def run_parts(parts: Sequence[Part], setup: Setup, deadline: float) -> Iterator[Result | Outcome]:
    """Run parts one after the other: each result as it comes, then the part's outcome, with all of its results.

    ``deadline`` is of time.monotonic(): nothing begins after it, and what runs then is ended.
    """
    left = list(parts)
    context = multiprocessing.get_context("spawn")
    while left and time.monotonic() < deadline:
        receiver, sender = context.Pipe(duplex=False)
        # No daemon: a part may start processes of its own.
        process = context.Process(target=_work, args=(sender, left, setup))
        process.start()
        sender.close()
        try:
            while left:
                outcome = yield from _one_part(left.pop(0), receiver, process, deadline)
                yield outcome
                if outcome.status in ("error", "late") and not process.is_alive():
                    break
        finally:
            _end(process)
    for part in left:
        yield Outcome(part.name, "late", reason="out of time")


def _one_part(
    part: Part, receiver: Connection, process: BaseProcess, deadline: float
) -> Generator[Result | Outcome, None, Outcome]:
    """What the process sends of a part that it runs; a process that is late or dies has run none after it."""
    begin = time.monotonic()
    limit = min(begin + part.limit_s, deadline)
    found: list[Result] = []
    try:
        while receiver.poll(max(limit - time.monotonic(), 0.0)):
            received = receiver.recv()
            if isinstance(received, Outcome):
                if received.status == "error" and any(text in received.reason for text in _DEVICE_ERRORS):
                    process.join(_KILL_S)
                return received
            found.append(received)
            yield received
    except EOFError:
        process.join(_KILL_S)
        reason = f"the process ended with status {process.exitcode}"
        return _outcome(part.name, "error", begin, found, reason)
    _end(process)
    if limit == deadline:
        return _outcome(part.name, "late", begin, found, "out of time")
    return _outcome(part.name, "error", begin, found, f"not done after {part.limit_s:.0f} s")
