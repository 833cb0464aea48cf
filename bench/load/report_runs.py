"""Runs as rows of tables and as JSON under the names of `vllm bench serve`."""

from typing import Any

import msgspec
import numpy as np

from ..report import Table, number
from .answer import Answer
from .harness import Harness, Run
from .metrics import METRICS, Spread, itls_s, ttft_s

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
BUSY_CLIENT = 0.8  # share of a core from which on the client may be what is measured
LATE_START_S = 0.05


def throughput_table(runs: list[Run], labels: list[str]) -> Table:
    """One row per run: how much, and the middle of each latency."""
    goodput = any(run.figures.request_goodput is not None for run in runs)
    columns = ["load", "requests", "failed", "requests/s", "output tokens/s", "total tokens/s"]
    columns += [f"{name} ms" for name in NAMES.values()] + (["good requests/s"] if goodput else [])
    rows = []
    for label, run in zip(labels, runs, strict=True):
        figures = run.figures
        row = [label, str(figures.completed), str(figures.failed), number(figures.request_throughput)]
        row += [number(figures.output_throughput), number(figures.total_token_throughput)]
        row += [number(spread.median if spread else None) for spread in spreads(run).values()]
        rows.append([*row, number(figures.request_goodput)] if goodput else row)
    return Table("Throughput, and medians of latency", columns, rows)


def latency_table(runs: list[Run], labels: list[str]) -> Table:
    """One row per run and metric."""
    rows = [
        [label, name, *(number(getattr(spread, each) if spread else None) for each in STATISTICS)]
        for label, run in zip(labels, runs, strict=True)
        for name, spread in zip(NAMES.values(), spreads(run).values(), strict=True)
    ]
    return Table("Latency, ms", ["load", "", *STATISTICS], rows)


def errors_table(runs: list[Run], labels: list[str]) -> list[Table]:
    """Errors by kind with an example of each; no table without errors."""
    rows = [
        [label, kind, str(count), run.figures.first_messages[kind]]
        for label, run in zip(labels, runs, strict=True)
        for kind, count in sorted(run.figures.errors_by_kind.items())
    ]
    return [Table("Failed requests", ["load", "kind", "requests", "example"], rows)] if rows else []


def spreads(run: Run) -> dict[str, Spread | None]:
    """The run's four latencies, in the order of METRICS."""
    return {metric: getattr(run.figures, metric) for metric in METRICS}


def run_document(run: Run, detailed: bool) -> dict[str, Any]:
    """One run, flat, with the keys of `vllm bench serve` where it has them."""
    figures = msgspec.to_builtins(run.figures)
    for metric, spread in spreads(run).items():
        del figures[metric]
        for statistic in Spread.__struct_fields__:
            figures[f"{statistic}_{metric}_ms"] = getattr(spread, statistic) if spread else None
    rate = run.load.rate
    about = {
        "url": run.target.address.url,
        "backend": run.target.address.protocol,
        "model_id": run.target.model,
        "num_prompts": len(run.outcome.answers),
        "max_concurrency": run.load.concurrency,
        "request_rate": "inf" if rate is None or np.isinf(rate) else rate,
        "burstiness": None if rate is None or np.isinf(rate) or run.load.arrivals == "constant" else 1.0,
        "interrupted": run.outcome.interrupted,
        "client_cpu_share": run.outcome.client_cpu_s / max(run.outcome.duration_s, 1e-9),
        "max_start_delay_ms": max_start_delay_s(run) * 1e3,
    }
    return about | figures | (_details(run) if detailed else {})


def max_start_delay_s(run: Run) -> float:
    """How much later than due a request left at most; only an open loop has due times."""
    return max((answer.start - answer.due for answer in run.outcome.answers), default=0.0)


def _details(run: Run) -> dict[str, Any]:
    """Per request, in the order in which they ended; times in seconds."""
    answers = run.outcome.answers

    def first(answer: Answer) -> float | None:
        return ttft_s(answer) if answer.times else None

    return {
        "input_lens": [answer.input_tokens for answer in answers],
        "output_lens": [answer.output_tokens or 0 for answer in answers],
        "start_times": [answer.start - run.outcome.begin for answer in answers],
        "ttfts": [first(answer) for answer in answers],
        "itls": [itls_s(answer) for answer in answers],
        "errors": [answer.error or "" for answer in answers],
    }


def harness_document(harness: Harness) -> dict[str, Any]:
    """What all runs have in common."""
    return {
        "servers": [
            {
                "url": target.address.url,
                "protocol": target.address.protocol,
                "model_id": target.model,
                "about": target.about,
            }
            for target in harness.targets
        ],
        "client_check": harness.client_check and msgspec.structs.asdict(harness.client_check),
        "workload": msgspec.to_builtins(harness.workload, enc_hook=str),
        "seed": harness.options.seed,
        "ignore_eos": harness.options.ignore_eos,
        "objectives_ms": msgspec.to_builtins(harness.objectives),
        "interrupted": harness.interrupted,
        "runs": [run_document(run, harness.options.detailed) for run in harness.runs],
    }


def harness_notes(harness: Harness) -> list[str]:
    """What makes figures mean less than they seem to."""
    notes = []
    total = [run.figures for run in harness.runs]
    if harness.interrupted:
        notes.append("Interrupted: requests that had not ended are left out.")
    other = sum(figures.other_length for figures in total)
    completed = sum(figures.completed for figures in total)
    if harness.words_assumed and completed:
        notes.append("The server tells no input tokens and no --tokenizer was given: one token a word is assumed.")
    if other:
        reason = "the server doesn't heed ignore_eos" if harness.options.ignore_eos else "answers ended by themselves"
        notes.append(f"{other} of {completed} answers have another length than asked for: {reason}.")
    if any(figures.uncounted for figures in total):
        notes.append("The server doesn't tell the number of output tokens: one token an event is assumed.")
    if any(run.outcome.client_cpu_s > BUSY_CLIENT * run.outcome.duration_s for run in harness.runs):
        notes.append(f"The client used more than {BUSY_CLIENT:.0%} of a core in some run and may be what was measured.")
    if any(max_start_delay_s(run) > LATE_START_S for run in harness.runs):
        notes.append(f"Some requests left more than {LATE_START_S * 1e3:.0f} ms late.")
    if harness.client_check is not None and not harness.client_check.passes:
        notes.append(f"This machine is too busy or too slow for the client to be trusted: {harness.client_check}.")
    return notes


def harness_facts(harness: Harness) -> list[tuple[str, str]]:
    """The same in words, for the head of a page."""
    workload = harness.workload
    lengths = f"{harness.options.input_tokens} in, {harness.options.output_tokens or 128} out"
    return [
        ("Server", ", ".join(f"{target.address.url} ({target.address.protocol})" for target in harness.targets)),
        ("Model", ", ".join(dict.fromkeys(target.model or "unknown" for target in harness.targets))),
        ("Workload", f"{workload.name}, {lengths} (tokens), seed {harness.options.seed}"),
        ("Client", str(harness.client_check or "not measured")),
    ]
