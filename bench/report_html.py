"""One self-contained page: tables and plots as SVG, no script, nothing fetched."""

from html import escape

from .report import Plot, Report, Table

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
        *map(_plot, report.plots),
        "</html>\n",
    ]
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<h2>{escape(table.title)}</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _plot(plot: Plot) -> str:
    caption = escape(plot.caption)
    return f"<h2>{escape(plot.title)}</h2><figure>{plot.chart.svg()}<figcaption>{caption}</figcaption></figure>"
