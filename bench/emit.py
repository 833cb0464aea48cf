"""Writes a report in every form that was asked for: a table on the terminal, JSON, HTML, an image."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..engine.install_hints import install_extra
from .options import ReportOptions
from .report import Report, Table

SCHEMA_VERSION = 1  # of the JSON, docs/bench.md


class MissingPlots(Exception):
    """matplotlib is not installed; the message says how to get it."""


def check_plots(options: ReportOptions) -> None:
    """Before anything is measured. Raises MissingPlots."""
    if (options.html or options.png) and importlib.util.find_spec("matplotlib") is None:
        raise MissingPlots(f"--html and --png need matplotlib: {install_extra('bench')}")


def markdown(table: Table) -> str:
    """A table that reads well on a terminal and renders in a README."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]

    def row(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([row(table.columns), rule, *map(row, table.rows)])


def document(report: Report) -> dict[str, Any]:
    """The JSON of a report."""
    return {
        "version": SCHEMA_VERSION,
        "kind": report.kind,
        **msgspec.to_builtins(report.origin),
        **report.document,
        "notes": report.notes,
    }


def emit(report: Report, options: ReportOptions) -> None:
    """Print the tables and write the files."""
    for table in report.tables:
        print(f"\n{table.title}\n\n{markdown(table)}")
    for note in report.notes:
        print(f"\nNote: {note}")
    written: list[Path] = []
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document(report)), indent=1) + b"\n")
        written.append(options.json)
    if options.html or options.png:
        from . import report_html  # it needs matplotlib

        if options.html:
            options.html.write_text(report_html.page(report), encoding="utf-8")
            written.append(options.html)
        if options.png:
            report_html.write_png(report, options.png)
            written.append(options.png)
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
