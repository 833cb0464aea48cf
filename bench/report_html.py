"""One self-contained page: tables and plots as SVG, no script, nothing fetched. matplotlib draws."""

import io
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from .report import Plot, Report, Table

PLOT_INCHES = (8.5, 4.2)
RASTER_DPI = 130  # of what is drawn as pixels
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: .15rem 1rem; }
dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; } figure { margin: 0; } figcaption { color: #666; }
"""


def page(report: Report) -> str:
    """The whole HTML document."""
    hardware = report.origin.hardware
    machine = f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_gib:g} GiB"
    facts = [
        *report.facts,
        ("Machine", ", ".join([machine, *hardware.gpus, hardware.system])),
        ("Command", report.origin.command),
        ("Date", report.origin.date),
        ("headwater", report.origin.headwater),
    ]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report.title)}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style><h1>{escape(report.title)}</h1><dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts),
        "</dl>",
        *(f"<p><b>Note:</b> {escape(note)}</p>" for note in report.notes),
        *map(_table, report.tables),
        *(_plot(number, plot) for number, plot in enumerate(report.plots)),
        "</html>\n",
    ]
    return "\n".join(parts)


def write_png(report: Report, path: Path) -> None:
    """All plots below each other."""
    width, height = PLOT_INCHES
    figure = Figure(figsize=(width, height * max(1, len(report.plots))), layout="constrained")
    figure.suptitle(report.title)
    rows = figure.subplots(max(1, len(report.plots)), squeeze=False)
    for axes, plot in zip(rows[:, 0], report.plots, strict=False):
        axes.set_title(plot.title, fontsize=10)
        plot.draw(axes)
    figure.savefig(path, dpi=RASTER_DPI, metadata={"Software": None})


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<h2>{escape(table.title)}</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _plot(number: int, plot: Plot) -> str:
    figure = Figure(figsize=PLOT_INCHES, layout="constrained")
    plot.draw(figure.subplots())
    out = io.StringIO()
    # Ids are hashes: with a salt of its own each drawing of the page keeps its own.
    with mpl.rc_context({"svg.hashsalt": f"plot {number}", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", dpi=RASTER_DPI, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"<h2>{escape(plot.title)}</h2><figure>{svg}<figcaption>{escape(plot.caption)}</figcaption></figure>"
