"""``report.html``: one self-contained page with the tables and plots of a demo run.

The plots are SVG drawn by matplotlib, the page is a Jinja template; nothing is loaded from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, select_autoescape
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from orchestrator.demo.play import Outcome
from orchestrator.demo.reference import Point
from orchestrator.demo.summary import PhaseResult
from orchestrator.plots import INK, STYLE, as_svg

TEMPLATES = Path(__file__).parent.parent / "templates"
EDGE, CLOUD = "#0b7285", "#e8590c"


@dataclass(frozen=True, slots=True)
class Plot:
    """A titled drawing with a sentence on how to read it."""

    title: str
    note: str
    svg: str


def write_report(
    path: Path, summary: Mapping[str, Any], phases: Sequence[PhaseResult], frontier: Mapping[str, Sequence[Point]]
) -> None:
    """Draw everything and write the page."""
    with matplotlib.rc_context(STYLE):
        plots = [
            Plot(
                "Threshold and link over time", "What was measured of the link, and the τ that followed.", _link(phases)
            ),
            Plot("Quality against cost", "Before the swap; cost is money and priced seconds.", _frontier(frontier)),
            Plot("Sent to the cloud, by link", "Share of the requests that left the edge.", _offload(summary)),
            Plot("Latency by route", "Share of the requests answered within a time.", _latency(phases)),
        ]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(default=True))
    page = environment.get_template("report.html.j2").render(summary=summary, plots=plots)
    path.write_text(page, encoding="utf-8")


def _link(phases: Sequence[PhaseResult]) -> str:
    figure = Figure(figsize=(9, 5.2))
    rows = figure.subplots(3, len(phases), sharex="col", sharey="row", squeeze=False)
    for column, phase in enumerate(phases):
        seen = sorted((o for o in phase.outcomes if o.info), key=lambda o: o.at_s)
        start = seen[0].at_s if seen else 0.0
        times = [o.at_s - start for o in seen]
        infos = [o.info for o in seen if o.info]
        rows[0][column].plot(times, [i.threshold for i in infos], ".", ms=3, color=EDGE)
        rows[1][column].plot(times, [i.link.rtt_ms for i in infos], ".", ms=3, color=INK)
        rows[2][column].plot(times, [i.link.up_bps / 1e6 for i in infos], ".", ms=3, color=INK)
        rows[0][column].set_title(phase.name)
        rows[2][column].set_xlabel("seconds")
        for axes in rows[:, column]:
            _shade(axes, seen, start)
    for axes, label in zip(rows[:, 0], ("τ", "RTT, ms", "uplink, Mbit/s"), strict=True):
        axes.set_ylabel(label)
    for axes in rows[1:].flat:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    return as_svg(figure)


def _shade(axes: Any, seen: Sequence[Outcome], start: float) -> None:
    """A band behind every other link state."""
    names = list(dict.fromkeys(o.stage for o in seen))
    for index, name in enumerate(names):
        times = [o.at_s - start for o in seen if o.stage == name]
        if index % 2:
            axes.axvspan(min(times), max(times), color="#f1f3f5", zorder=0)
        axes.text(min(times), 1.0, name, fontsize=6.5, color=INK, transform=axes.get_xaxis_transform(), va="top")


def _frontier(frontier: Mapping[str, Sequence[Point]]) -> str:
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    for name, points in frontier.items():
        x, y = [1e3 * p.price_usd for p in points], [p.success for p in points]
        if len(points) > 1:
            axes.plot(x, y, "-o", ms=2.5, lw=1, color="#adb5bd", label=name)
        else:
            axes.plot(x, y, "*" if "link" in name else "o", ms=12 if "link" in name else 7, label=name)
    axes.set_xlabel("price of a request, thousandths of a dollar")
    axes.set_ylabel("success")
    axes.legend()
    return as_svg(figure)


def _offload(summary: Mapping[str, Any]) -> str:
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    phases = summary["phases"]
    links = list(phases[0]["by_link"])
    for index, phase in enumerate(phases):
        shares = [phase["by_link"].get(link, {}).get("offload_rate") or 0.0 for link in links]
        places = [n + 0.38 * index for n in range(len(links))]
        axes.bar(
            places, shares, 0.36, label=f"{phase['name']} ({phase['edge_version']})", color=(CLOUD, EDGE)[index % 2]
        )
    axes.set_xticks([n + 0.19 for n in range(len(links))], links)
    axes.set_ylabel("share sent to the cloud")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return as_svg(figure)


def _latency(phases: Sequence[PhaseResult]) -> str:
    figure = Figure(figsize=(6, 3.2))
    axes = figure.subplots()
    for phase, style in zip(phases, ("--", "-"), strict=False):
        for route, color in (("edge", EDGE), ("cloud", CLOUD)):
            times = sorted(o.latency_ms for o in phase.outcomes if o.info and o.info.route == route)
            if times:
                shares = [(n + 1) / len(times) for n in range(len(times))]
                axes.step(times, shares, style, color=color, label=f"{route}, {phase.name}", where="post")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share answered")
    axes.legend()
    return as_svg(figure)
