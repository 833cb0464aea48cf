"""`headwater bench compare`: the same requests against several servers in turn, round after round.

One server is under load at a time. A round asks every server the same; the order turns from round to round, so that
what disturbs the machine for a while disturbs all alike. Ratios are taken within a round, then looked at over rounds.
"""

import math
import statistics

from ..emit import emit
from ..machine import origin
from ..options import LoadOptions, ReportOptions
from ..report import Plot, Report, Table
from .answer import Answer
from .harness import Harness, Run, run_harness
from .metrics import Figures, summarize
from .plots import latency_chart, ratios_chart
from .report_runs import (
    NAMES,
    errors_table,
    harness_document,
    harness_facts,
    harness_notes,
    latency_table,
    throughput_table,
)
from .run import Load, Outcome

RATIOS = {"output tokens/s": "output_throughput", **{f"median {name}": metric for metric, name in NAMES.items()}}


def compare(urls: list[str], load: Load, rounds: int, options: LoadOptions, report_options: ReportOptions) -> int:
    """Measure and report. Returns the exit code. Raises ValueError."""

    async def measure(harness: Harness) -> None:
        for number_of_round in range(rounds):
            turned = [(number_of_round + i) % len(urls) for i in range(len(urls))]
            for index in turned:
                if not harness.interrupted:
                    label = f"round {number_of_round + 1}/{rounds}, {letter(index)}"
                    await harness.run(harness.targets[index], load, number_of_round + 1, label)

    harness = run_harness(urls, options, measure)
    emit(comparison(harness, urls), report_options)
    return harness.exit_code


def letter(index: int) -> str:
    """A, B, C ...: the servers in the order of the command line."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def value(figures: Figures, key: str) -> float | None:
    """A throughput, or the median of a latency."""
    found = getattr(figures, key)
    return found if isinstance(found, float) or found is None else found.median


def ratios_to_first(rounds: list[list[Figures]], server: int) -> dict[str, list[float]]:
    """Server / first server, round by round; rounds in which either has nothing are left out.

    Args:
        rounds: for each round the figures of all servers.
    """
    found: dict[str, list[float]] = {name: [] for name in RATIOS}
    for figures in rounds:
        for name, key in RATIOS.items():
            ours, first = value(figures[server], key), value(figures[0], key)
            if ours and first:
                found[name].append(ours / first)
    return found


def ratio_rows(name: str, ratios: dict[str, list[float]]) -> list[list[str]]:
    """Median and range over the rounds, and in how many the ratio is above 1."""
    rows = []
    for metric, values in ratios.items():
        if values:
            spread = math.sqrt(statistics.variance(values)) if len(values) > 1 else 0.0
            cells = [f"{statistics.median(values):.3f}", f"{min(values):.3f} - {max(values):.3f}", f"{spread:.3f}"]
            rows.append([name, metric, *cells, f"{sum(value > 1 for value in values)} of {len(values)}"])
        else:
            rows.append([name, metric, "-", "-", "-", "0 of 0"])
    return rows


def all_rounds(runs: list[Run], harness: Harness) -> Run:
    """The rounds of one server as if they were one run."""
    answers: list[Answer] = [answer for run in runs for answer in run.outcome.answers]
    seconds = sum(run.outcome.duration_s for run in runs)
    cpu = sum(run.outcome.client_cpu_s for run in runs)
    outcome = Outcome(runs[0].outcome.begin, answers, seconds, cpu, any(run.outcome.interrupted for run in runs))
    return Run(runs[0].target, runs[0].load, outcome, summarize(answers, seconds, harness.objectives))


def comparison(harness: Harness, urls: list[str]) -> Report:
    """Figures of each server over all rounds, and the ratios."""
    by_target = [[run for run in harness.runs if run.target is target] for target in harness.targets]
    complete = min(len(runs) for runs in by_target)  # after Ctrl-C the last round may lack servers
    rounds = [[runs[i].figures for runs in by_target] for i in range(complete)]
    measured = [(letter(i), all_rounds(runs, harness)) for i, runs in enumerate(by_target) if runs]
    labels, totals = [label for label, _ in measured], [run for _, run in measured]
    ratios = {f"{letter(i)} / A": ratios_to_first(rounds, i) for i in range(1, len(urls))}
    ratio_table = Table(
        f"Ratios to A, over {complete} rounds",
        ["servers", "", "median", "range", "deviation", "rounds above 1"],
        [row for name, found in ratios.items() for row in ratio_rows(name, found)],
    )
    plots = [Plot("Latency", "All rounds together.", latency_chart(totals, labels))] if totals else []
    plots += [
        Plot(name, "Each dot is one round; the bar is their median.", ratios_chart(found))
        for name, found in ratios.items()
    ]
    return Report(
        kind="compare",
        title="headwater bench compare: " + ", ".join(f"{letter(i)} = {url}" for i, url in enumerate(urls)),
        origin=origin(),
        facts=harness_facts(harness),
        tables=[
            throughput_table(totals, labels),
            ratio_table,
            latency_table(totals, labels),
            *errors_table(totals, labels),
        ],
        plots=plots,
        notes=harness_notes(harness),
        document={**harness_document(harness), "rounds": complete, "ratios_to_first": ratios},
    )
