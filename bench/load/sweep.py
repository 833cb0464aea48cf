"""`headwater bench sweep`: more and more load until the server gives no more."""

from typing import Literal

import numpy as np

from ..emit import emit
from ..options import LoadOptions, ReportOptions
from ..report import Table, number
from .harness import Harness, Run, run_harness
from .run import Load
from .serve import load_report

SATURATED_GAIN = 1.05  # less than this from one step to the next is no gain
SweepOver = Literal["concurrency", "rate"]


def sweep(url: str, over: SweepOver, most: int, steps: int, options: LoadOptions, report_options: ReportOptions) -> int:
    """Measure and report. Returns the exit code. Raises ValueError.

    Args:
        most: concurrency to stop at.
        steps: rates between one request at a time and all at once.
    """

    async def measure(harness: Harness) -> None:
        if over == "concurrency":
            await sweep_concurrency(harness, most)
        else:
            await sweep_rates(harness, steps)

    harness = run_harness([url], options, measure)
    title = f"headwater bench sweep: {harness.targets[0].model or url}"
    report = load_report("sweep", title, harness, saturation_table(harness.runs))
    knee = saturation(harness.runs)
    report.document["saturation"] = None if knee is None else knee.load.concurrency or knee.load.rate
    emit(report, report_options)
    return harness.exit_code


async def sweep_concurrency(harness: Harness, most: int) -> None:
    """1, 2, 4 ... until twice the clients get less than SATURATED_GAIN times the tokens."""
    concurrency = 1
    while concurrency <= most and not harness.interrupted:
        load = Load(concurrency)
        run = await harness.run(harness.targets[0], load, len(harness.runs) + 1, load.label)
        before = harness.runs[-2].figures.output_throughput if len(harness.runs) > 1 else 0.0
        if not run.figures.completed or run.figures.output_throughput < before * SATURATED_GAIN:
            return
        concurrency *= 2


async def sweep_rates(harness: Harness, steps: int) -> None:
    """One request at a time, all at once, and equidistant rates between what these two reach."""
    target = harness.targets[0]
    ends = []
    for load in (Load(1), Load(rate=np.inf)):
        if harness.interrupted:
            return
        run = await harness.run(target, load, len(harness.runs) + 1, load.label)
        ends.append(run.figures.request_throughput)
    lowest, highest = ends
    if not 0 < lowest < highest:
        return
    for rate in np.linspace(lowest, highest, steps + 2)[1:-1].tolist():
        if not harness.interrupted:
            load = Load(rate=round(rate, 3))
            await harness.run(target, load, len(harness.runs) + 1, load.label)
    harness.runs.sort(key=lambda run: run.load.rate or 0.0)


def saturation(runs: list[Run]) -> Run | None:
    """The least load that gives all but nothing less than the most that was seen; None if nothing completed."""
    most = max((run.figures.output_throughput for run in runs), default=0.0)
    for run in runs:
        if most > 0 and run.figures.output_throughput * SATURATED_GAIN >= most:
            return run
    return None


def saturation_table(runs: list[Run]) -> list[Table]:
    """Where the server has no more to give."""
    knee = saturation(runs)
    if knee is None:
        return []
    figures = knee.figures
    columns = ["saturated at", "output tokens/s", "requests/s", "median TTFT ms", "median ITL ms"]
    latencies = [number(spread.median if spread else None) for spread in (figures.ttft, figures.itl)]
    row = [knee.load.label, number(figures.output_throughput), number(figures.request_throughput), *latencies]
    return [Table("Saturation", columns, [row])]
