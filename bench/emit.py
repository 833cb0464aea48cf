"""Writes a report in every form that was asked for: a table on the terminal, JSON, HTML, an image."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from .chart import stacked
from .options import ReportOptions
from .report import Report, Table
from .report_html import page

SCHEMA_VERSION = 1  # of the JSON, docs/bench.md


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
    if options.html:
        options.html.write_text(page(report), encoding="utf-8")
        written.append(options.html)
    if options.svg:
        options.svg.write_text(stacked([(plot.title, plot.chart) for plot in report.plots]), encoding="utf-8")
        written.append(options.svg)
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
