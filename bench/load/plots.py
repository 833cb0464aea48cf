"""Plots of runs. Each function draws on axes that it is given; matplotlib itself is not imported here."""

from typing import TYPE_CHECKING

import numpy as np

from .harness import Run
from .report_runs import NAMES, STATISTICS, spreads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIMELINE_STREAMS = 64  # more are not told apart
MILLISECONDS = "ms"


def draw_latency(axes: "Axes", runs: list[Run], labels: list[str]) -> None:
    """Percentiles of each metric over the runs, on a logarithmic scale."""
    ticks, names = [], []
    shades = np.linspace(0.35, 1.0, len(STATISTICS) - 1)
    for metric_number, (metric, name) in enumerate(NAMES.items()):
        for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
            spread = spreads(run)[metric]
            position = metric_number * (len(runs) + 1) + number
            ticks.append(position)
            names.append(f"{name}, {label}" if len(runs) > 1 else name)
            if spread is None:
                continue
            values = [getattr(spread, each) for each in STATISTICS[1:]]
            axes.hlines(position, values[0], values[-1], color="lightgray", zorder=1)
            for value, shade in zip(values, shades, strict=True):
                axes.plot(value, position, "o", color=f"C{metric_number}", alpha=shade)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.invert_yaxis()
    if any(spread for run in runs for spread in spreads(run).values()):
        axes.set_xscale("log", subs=[2, 5])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(f"{MILLISECONDS}; from pale to full: {', '.join(STATISTICS[1:])}")


def draw_curve(axes: "Axes", runs: list[Run], labels: list[str]) -> None:
    """Throughput against the time that a token and a first token take."""
    points = [(run, label) for run, label in zip(runs, labels, strict=True) if run.figures.completed]
    throughput = [run.figures.output_throughput for run, _ in points]
    first = axes.twinx()
    for each, metric, marker, color in ((axes, "itl", "o-", "C2"), (first, "ttft", "s--", "C0")):
        medians = [spread.median if (spread := spreads(run)[metric]) else np.nan for run, _ in points]
        each.plot(throughput, medians, marker, color=color)
        each.set_ylabel(f"median {NAMES[metric]}, {MILLISECONDS}", color=color)
        each.set_ylim(0, 1.2 * max(medians, default=1))
        if metric == "itl":
            for x, y, (_, label) in zip(throughput, medians, points, strict=True):
                each.annotate(label, (x, y), xytext=(4, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("output tokens/s")
    axes.set_xlim(left=0)


def draw_timeline(axes: "Axes", run: Run) -> None:
    """Each stream a line: when it was asked for, and every event."""
    answers = sorted(run.outcome.answers, key=lambda answer: answer.start)[:TIMELINE_STREAMS]
    for row, answer in enumerate(answers):
        start = answer.start - run.outcome.begin
        times = np.array(answer.times) - run.outcome.begin
        end = times[-1] if len(times) else start
        axes.hlines(row, start, times[0] if len(times) else start, color="lightgray")
        color = "C2" if answer.ok else "C3"
        # As pixels: thousands of marks would make a drawing of megabytes.
        axes.plot(times, np.full(len(times), row), "|", color=color, markersize=4, rasterized=True)
        if not answer.ok:
            axes.plot(end, row, "x", color=color, markersize=5)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_ylabel("request")


def draw_ratios(axes: "Axes", ratios: dict[str, list[float]]) -> None:
    """One dot per round, a bar at the median."""
    for position, values in enumerate(ratios.values()):
        axes.plot(values, np.full(len(values), position), "o", alpha=0.6, color="C0")
        if values:
            axes.plot(float(np.median(values)), position, "|", color="black", markersize=18)
    axes.axvline(1.0, color="gray", linestyle=":")
    axes.set_yticks(range(len(ratios)), list(ratios), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ratio to the first server, a dot per round")
