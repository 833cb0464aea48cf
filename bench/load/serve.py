"""`headwater bench serve`: loads of given strength against one server."""

from ..emit import emit
from ..machine import origin
from ..options import LoadOptions, ReportOptions
from ..report import Plot, Report, Table
from .harness import Harness, run_harness
from .plots import curve_chart, latency_chart, timeline_chart
from .report_runs import errors_table, harness_document, harness_facts, harness_notes, latency_table, throughput_table
from .run import Load


def serve(url: str, loads: list[Load], options: LoadOptions, report_options: ReportOptions) -> int:
    """Measure and report. Returns the exit code. Raises ValueError."""

    async def measure(harness: Harness) -> None:
        for number, load in enumerate(loads, 1):
            if not harness.interrupted:
                await harness.run(harness.targets[0], load, number, load.label)

    harness = run_harness([url], options, measure)
    emit(load_report("serve", f"headwater bench serve: {harness.targets[0].model or url}", harness), report_options)
    return harness.exit_code


def load_report(kind: str, title: str, harness: Harness, more: list[Table] | None = None) -> Report:
    """Tables and plots of the runs that one server went through."""
    runs = harness.runs
    labels = [run.load.label for run in runs]
    return Report(
        kind=kind,
        title=title,
        origin=origin(),
        facts=harness_facts(harness),
        tables=[
            throughput_table(runs, labels),
            *(more or []),
            latency_table(runs, labels),
            *errors_table(runs, labels),
        ],
        plots=load_plots(harness),
        notes=harness_notes(harness),
        document=harness_document(harness),
    )


def load_plots(harness: Harness) -> list[Plot]:
    """The plots of runs against one server; none if nothing ran."""
    runs = harness.runs
    labels = [run.load.label for run in runs]
    if not runs:
        return []
    last = runs[-1]
    return [
        Plot(
            "Latency",
            "Percentiles of time to first token, time per output token, gaps between tokens, and whole requests.",
            latency_chart(runs, labels),
        ),
        Plot(
            "Throughput and latency",
            "Each point is one load: left scale, the median gap between tokens; right scale, the first token.",
            curve_chart(runs, labels),
        ),
        Plot(
            f"Timeline of tokens, {last.load.label}",
            "A line per request: grey while it waits for its first token, then a mark for every event; "
            "red requests failed.",
            timeline_chart(last),
        ),
    ]
