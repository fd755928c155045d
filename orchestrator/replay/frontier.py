"""Quality against cost: ``frontier.png`` and the self-contained ``frontier.html``.

Fixed thresholds are swept as a line; every rule is a point with the intervals of its cost and its success. Cost is
money plus priced seconds.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from jinja2 import Environment
from matplotlib.figure import Figure

from orchestrator.plots import STYLE, as_svg
from orchestrator.replay.results import CONFIDENCE, Results
from orchestrator.replay.tables import COLUMNS, cells, notes
from policies.replay import Figures

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>NetGPT Orchestrator: replay</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #212529; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } p { color: #495057; margin: .2rem 0; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-top: 1rem; }
  th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #dee2e6; }
  th:first-child, td:first-child { text-align: left; }
  svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>Quality against cost, replayed from the log</h1>
<figure>{{ svg|safe }}</figure>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}
<table>
<tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
</body>
</html>
"""


def write_frontier(directory: Path, found: Results) -> None:
    """Draw the frontier into ``directory``."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(found)
        svg = as_svg(figure)
        figure.savefig(directory / "frontier.png", dpi=160)
    rows = [cells(row) for row in found.rows]
    page = Environment(autoescape=True).from_string(PAGE)
    text = page.render(svg=svg, notes=list(notes(found)), header=COLUMNS, rows=rows)
    (directory / "frontier.html").write_text(text, encoding="utf-8")


def _figure(found: Results) -> Figure:
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    sweep = found.sweep.values()
    axes.plot([_cost(mean) for mean in sweep], [mean.success for mean in sweep], "-", color="#adb5bd", lw=1, zorder=0)
    axes.plot([], [], "-", color="#adb5bd", label="fixed thresholds")
    for row in found.rows:
        mean, low, high = row.best.mean, row.best.low, row.best.high
        (dot,) = axes.plot(_cost(mean), mean.success, "o", ms=5, label=row.name)
        axes.plot([_cost(low), _cost(high)], [mean.success] * 2, lw=1, color=dot.get_color())
        axes.plot([_cost(mean)] * 2, [low.success, high.success], lw=1, color=dot.get_color())
    axes.set_xlabel(f"price of 1,000 requests, $ (money and priced seconds; {CONFIDENCE:.0%} intervals)")
    axes.set_ylabel("success")
    axes.legend()
    return figure


def _cost(means: Figures) -> float:
    return 1e3 * (means.money_usd + means.latency_usd)
