"""Plots of runs."""

import numpy as np

from ..chart import BLUE, COLORS, GREEN, PALE, RED, Axis, Chart
from .harness import Run
from .report_runs import NAMES, STATISTICS, spreads

TIMELINE_STREAMS = 64  # more are not told apart
MILLISECONDS = "ms"


def latency_chart(runs: list[Run], labels: list[str]) -> Chart:
    """Percentiles of each metric over the runs, on a logarithmic scale."""
    names = [f"{name}, {label}" if len(runs) > 1 else name for name in NAMES.values() for label in labels]
    chart = Chart(Axis(f"{MILLISECONDS}; from pale to full: {', '.join(STATISTICS[1:])}", log=True), Axis(names=names))
    rows = [(number, run) for number in range(len(NAMES)) for run in runs]
    for row, (number, run) in enumerate(rows):
        spread = spreads(run)[list(NAMES)[number]]
        if spread is None:
            continue
        values = [getattr(spread, each) for each in STATISTICS[1:]]
        chart.line([values[0], values[-1]], [row, row], PALE)
        for value, shade in zip(values, np.linspace(0.35, 1.0, len(values)), strict=True):
            chart.dots([value], [row], COLORS[number], float(shade))
    return chart


def curve_chart(runs: list[Run], labels: list[str]) -> Chart:
    """Throughput against the time that a token and a first token take."""
    points = [(run, label) for run, label in zip(runs, labels, strict=True) if run.figures.completed]
    throughput = [run.figures.output_throughput for run, _ in points]

    def medians(metric: str) -> list[float]:
        return [spread.median if (spread := spreads(run)[metric]) else float("nan") for run, _ in points]

    between, first = medians("itl"), medians("ttft")
    chart = Chart(
        Axis("output tokens/s", low=0),
        Axis(f"median {NAMES['itl']}, {MILLISECONDS}", low=0, color=GREEN),
        Axis(f"median {NAMES['ttft']}, {MILLISECONDS}", low=0, color=BLUE),
    )
    chart.line_right(throughput, first, BLUE)
    chart.dots_right(throughput, first, BLUE)
    chart.line(throughput, between, GREEN)
    chart.dots(throughput, between, GREEN)
    for x, y, (_, label) in zip(throughput, between, points, strict=True):
        if np.isfinite(y):
            chart.text(x, y, label)
    return chart


def timeline_chart(run: Run) -> Chart:
    """Each stream a line: when it was asked for, and every event."""
    answers = sorted(run.outcome.answers, key=lambda answer: answer.start)[:TIMELINE_STREAMS]
    chart = Chart(Axis("seconds"), Axis("request", low=len(answers), high=-1))
    for row, answer in enumerate(answers):
        start = answer.start - run.outcome.begin
        times = [moment - run.outcome.begin for moment in answer.times]
        chart.line([start, times[0] if times else start], [row, row], PALE)
        color = GREEN if answer.ok else RED
        chart.bars(times, [row] * len(times), color)
        if not answer.ok:
            chart.crosses([times[-1] if times else start], [row], color)
    return chart


def ratios_chart(ratios: dict[str, list[float]]) -> Chart:
    """One dot per round, a stroke at the median."""
    chart = Chart(Axis("ratio to the first server, a dot per round"), Axis(names=list(ratios)))
    chart.line([1.0, 1.0], [-0.5, len(ratios) - 0.5], "#888", dashed=True)
    for position, values in enumerate(ratios.values()):
        chart.dots(values, [position] * len(values), BLUE, 0.6)
        if values:
            middle = float(np.median(values))
            chart.line([middle, middle], [position - 0.3, position + 0.3], "#000")
    return chart
