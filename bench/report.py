"""A report: what a command found, before it is written in one form or another (emit.py)."""

from typing import Any

from msgspec import Struct

from .chart import Chart
from .machine import Origin


class Table(Struct):
    """Cells as text; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class Plot(Struct):
    """One plot."""

    title: str
    caption: str  # what it shows, for the page
    chart: Chart


class Report(Struct):
    """Everything that a command found."""

    kind: str  # the command
    title: str
    origin: Origin
    facts: list[tuple[str, str]]  # what was measured how, for the head of the page
    tables: list[Table]
    plots: list[Plot]
    notes: list[str]  # what a reader must know to read the figures rightly
    document: dict[str, Any]  # for the JSON, beside what every report has


def number(value: float | None) -> str:
    """Three digits or more, "-" if there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
