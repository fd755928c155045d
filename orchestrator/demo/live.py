"""What the demo shows while it runs: one line of progress, and a table that grows with every answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from orchestrator.demo.play import Outcome
from orchestrator.demo.summary import figures

REFRESH_PER_S = 4


class Screen:
    """A live view on ``console``; ``say`` leaves a line behind, ``doing`` is what is under way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._doing, self._since = "", time.monotonic()
        self._phase = ""
        self._outcomes: dict[str, list[Outcome]] = {}
        self._live: Live | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the view for as long as the block runs."""
        with Live(get_renderable=self._render, console=self._console, refresh_per_second=REFRESH_PER_S) as self._live:
            yield

    def say(self, line: str) -> None:
        """Print a line above the view."""
        self._console.print(line, highlight=False)

    def doing(self, what: str) -> None:
        """Name what is under way; a clock runs beside it."""
        self._doing, self._since = what, time.monotonic()

    def begin(self, phase: str) -> None:
        """Start an empty table for ``phase``, leaving the last one on the screen."""
        if self._outcomes:
            self._console.print(self._table())
        self._phase, self._outcomes = phase, {}

    def see(self, outcome: Outcome) -> None:
        """Count an outcome in."""
        self._outcomes.setdefault(outcome.stage, []).append(outcome)

    def _render(self) -> Group:
        clock = f"{self._doing} [dim]{time.monotonic() - self._since:.0f} s[/dim]"
        return Group(self._table(), Spinner("dots", clock)) if self._outcomes else Group(Spinner("dots", clock))

    def _table(self) -> Table:
        table = _table_of(f"{self._phase}", "link")
        for stage, outcomes in self._outcomes.items():
            table.add_row(stage, *_cells(figures(outcomes)))
        return table


def final_table(phases: Sequence[Mapping[str, Any]]) -> Table:
    """Before and after, side by side."""
    table = _table_of("before and after the swap", "phase")
    for phase in phases:
        table.add_row(f"{phase['name']} ({phase['edge_version']})", *_cells(phase))
    return table


def _table_of(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in ("requests", "τ", "to cloud", "success", "schema valid", "p50 ms", "p95 ms", "US$"):
        table.add_column(name, justify="right")
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    shares = [_share(row[key]) for key in ("offload_rate", "success", "schema_valid")]
    times = ["-" if value is None else f"{value:.0f}" for value in row["latency_ms"].values()]
    threshold = "-" if row["threshold"] is None else f"{row['threshold']:.2f}"
    return [str(row["requests"]), threshold, *shares, *times, f"{row['cost_usd']:.4f}"]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
