"""What the demo shows while it runs: one line of progress, and a table that grows with every answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from orchestrator.demo.play import Outcome
from orchestrator.demo.summary import figures

REFRESH_PER_S = 4


class Screen:
    """A live view on ``console`` inside a ``with`` block; ``say`` leaves a line behind, ``doing`` is under way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what, self._since = "", time.monotonic()
        self._detail: Callable[[], str] = str
        self._phase = ""
        self._outcomes: dict[str, list[Outcome]] = {}
        self._live: Live | None = None
        self._spinner = Spinner("dots")

    def __enter__(self) -> Screen:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Show what is under way, and no table yet."""
        self._phase, self._outcomes = "", {}
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=REFRESH_PER_S)
        self._live.start()

    def close(self) -> None:
        """Leave the last table on the screen; safe to call twice."""
        if self._live is not None:
            self._what = ""
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print a line above the view."""
        self._console.print(line, highlight=False)

    def stage(self, name: str, words: str) -> None:
        """A stage of the system's start: what is ready stays, what is on its way is replaced by the next."""
        if words.startswith("ready"):
            self.say(f"  {name:<7}{words}")
        else:
            self.doing(f"{name}: {words}")

    def doing(self, what: str, detail: Callable[[], str] = str) -> None:
        """Name what is under way; a clock runs beside it, and what ``detail`` says."""
        self._what, self._since, self._detail = what, time.monotonic(), detail

    def begin(self, phase: str) -> None:
        """Start an empty table for ``phase``, leaving the last one on the screen."""
        if self._outcomes:
            self._console.print(self._table())
        self._phase, self._outcomes = phase, {}

    def see(self, outcome: Outcome) -> None:
        """Count an outcome in."""
        self._outcomes.setdefault(outcome.stage, []).append(outcome)

    def _render(self) -> Group:
        shown: list[RenderableType] = [self._table()] if self._outcomes else []
        if self._what:
            self._spinner.update(
                text=f"{self._what} [dim]{time.monotonic() - self._since:.0f} s[/dim] {self._detail()}"
            )
            shown.append(self._spinner)
        return Group(*shown)

    def _table(self) -> Table:
        table = _table_of(f"{self._phase}", "link")
        for stage, outcomes in self._outcomes.items():
            table.add_row(stage, *_cells(figures(outcomes)))
        return table


def final_table(phases: Sequence[Mapping[str, Any]]) -> Table:
    """Before and after, side by side."""
    table = _table_of(" -> ".join(phase["edge_version"] for phase in phases), "phase")
    for phase in phases:
        table.add_row(phase["name"], *_cells(phase))
    return table


def _table_of(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in ("asked", "τ", "to cloud", "success", "valid", "p50 ms", "p95 ms", "US$"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    shares = [_share(row[key]) for key in ("offload_rate", "success", "schema_valid")]
    times = ["-" if value is None else f"{value:.0f}" for value in row["latency_ms"].values()]
    threshold = "-" if row["threshold"] is None else f"{row['threshold']:.2f}"
    return [str(row["requests"]), threshold, *shares, *times, f"{row['cost_usd']:.4f}"]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
