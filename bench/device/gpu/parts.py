"""The parts of the GPU command, and the process that runs them.

Parts run in a process of their own. An error of the device leaves that process useless, a crash ends it, a kernel that
never returns blocks it: the parent notes the part's error and starts another process with the parts that are left.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch

from . import check_attention as attention
from . import check_blocks as blocks
from . import check_rows as rows
from . import check_sampling as sampling
from . import decode as decode
from . import figures as figures
from . import figures_attention as attention_figures
from .interpreted import dots_in_float64
from .setup import Comparison, Figure, Results, Setup, Skipped

PART_LIMIT_S = 100.0  # a part's kernels are compiled in it
_DEVICE_ERRORS = ("CUDA error", "Triton Error [CUDA]")  # torch's and Triton's words


class Part(NamedTuple):
    """A name and what to run; times can only be taken on a GPU."""

    name: str
    run: Callable[[Setup], Results]
    needs_gpu: bool = False


# In order of importance: what there is no time for is at the end.
PARTS = (
    Part("roofs", figures.figures_of_roofs, needs_gpu=True),
    Part("check attention", attention.check_attention),
    Part("check sampling", sampling.check_sampling),
    Part("check rope and write", rows.check_rope_and_write),
    Part("check norms", rows.check_norms),
    Part("check layer norms", rows.check_layer_norms),
    Part("check activations", rows.check_activations),
    Part("few rows attention", attention_figures.figures_of_decode_attention, needs_gpu=True),
    Part("many rows attention", attention_figures.figures_of_prefill_attention, needs_gpu=True),
    Part("sampling", figures.figures_of_sampling, needs_gpu=True),
    Part("decode step", decode.figures_of_decode_step, needs_gpu=True),
    Part("check linears", rows.check_linears),
    Part("check blocks", blocks.check_blocks),
    Part("check invariance", attention.check_invariance),
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
    Part("runner", decode.figures_of_runner, needs_gpu=True),
)


Status = Literal["ok", "failed", "error", "skipped"]  # failed: a comparison does not hold


class Outcome(NamedTuple):
    """What became of a part."""

    name: str
    status: Status
    seconds: float = 0.0
    comparisons: tuple[Comparison, ...] = ()
    figures: tuple[Figure, ...] = ()
    reason: str = ""  # why skipped, or the error with its traceback


def run_part(part: Part, setup: Setup) -> Outcome:
    """Run one part here; whatever it raises is its outcome, and what it had found until then is kept."""
    begin = time.monotonic()
    comparisons: list[Comparison] = []
    timed: list[Figure] = []
    status: Status = "ok"
    reason = ""
    try:
        with nullcontext() if setup.device.type == "cuda" else dots_in_float64():
            for result in part.run(setup):
                if isinstance(result, Comparison):
                    comparisons.append(result)
                else:
                    timed.append(result)
    except Skipped as skipped:
        status, reason = "skipped", str(skipped)
    except Exception:  # the report is where it is handled
        status, reason = "error", traceback.format_exc()
    if status == "ok" and not all(comparison.holds for comparison in comparisons):
        status = "failed"
    return Outcome(part.name, status, time.monotonic() - begin, tuple(comparisons), tuple(timed), reason)


def _work(connection: Connection, parts: list[Part], setup: Setup) -> None:
    """The process: run parts in order and send what became of each."""
    if setup.device.type == "cuda":
        torch.cuda.set_device(setup.device)
    for part in parts:
        outcome = run_part(part, setup)
        connection.send(outcome)
        if outcome.status == "error" and any(text in outcome.reason for text in _DEVICE_ERRORS):
            return  # nothing works on the device in this process any more
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()


def run_parts(parts: Sequence[Part], setup: Setup, deadline: float) -> Iterator[Outcome]:
    """Run parts one after the other, each result as it comes; ``deadline`` is of time.monotonic()."""
    left = list(parts)
    context = multiprocessing.get_context("spawn")
    while left and time.monotonic() < deadline:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, left, setup), daemon=True)
        process.start()
        sender.close()
        while left:
            begin = time.monotonic()
            limit = min(PART_LIMIT_S, deadline - begin)
            try:
                if not receiver.poll(max(limit, 0.0)):
                    status: Status = "error" if limit == PART_LIMIT_S else "skipped"
                    reason = f"not done after {limit:.0f} s" if status == "error" else "out of time"
                    yield Outcome(left.pop(0).name, status, limit, reason=reason)
                    break
                outcome = receiver.recv()
            except EOFError:
                process.join(10)
                if process.exitcode != 0:
                    reason = f"the process ended with status {process.exitcode}"
                    yield Outcome(left.pop(0).name, "error", time.monotonic() - begin, reason=reason)
                break
            assert outcome.name == left.pop(0).name
            yield outcome
        process.kill()
        process.join()
    for part in left:
        yield Outcome(part.name, "skipped", reason="out of time")
