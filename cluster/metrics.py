"""The system's figures on Ray's metrics port (Prometheus) and so in its dashboard.

``GaugeExporter`` publishes a service's flat gauges as they are, every few seconds: RTT, bandwidth, threshold, how many
of its inputs are clamped, weight version, log lag. ``AnswerMetrics`` is told about every answer: requests by route and
the distributions of score and latency. All names begin with ``netgpt_``; all carry the tags they were made with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from actors.answer import Answer
from actors.swap import SwapReport

log = logging.getLogger(__name__)

PREFIX = "netgpt_"
MAX_GAUGES = 256  # per process: a figure whose name varies without end would fill the metrics agent
LATENCY_MS = [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0]
SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
_UNFIT = re.compile(r"[^a-zA-Z0-9_]")


class GaugeExporter:
    """Publishes ``source()`` every ``interval_s`` on the running event loop."""

    def __init__(
        self, source: Callable[[], Mapping[str, float]], tags: Mapping[str, str], interval_s: float = 2.0
    ) -> None:
        self._source, self._tags, self._interval_s = source, dict(tags), interval_s
        self._gauges: dict[str, Gauge] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin publishing."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="metrics")

    async def stop(self) -> None:
        """Publish once more and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self.publish()

    def publish(self) -> None:
        """Publish every finite figure once."""
        for name, value in self._source().items():
            if math.isfinite(value) and (gauge := self._gauge(name)) is not None:
                gauge.set(value)

    async def _run(self) -> None:
        while True:
            self.publish()
            await asyncio.sleep(self._interval_s)

    def _gauge(self, name: str) -> Gauge | None:
        if name not in self._gauges:
            if len(self._gauges) >= MAX_GAUGES:
                return None
            self._gauges[name] = _tagged(Gauge, metric_name(name), f"{name} of a service", self._tags)
        return self._gauges[name]


class AnswerMetrics:
    """An observer of an edge node: counts and distributions that gauges cannot carry."""

    def __init__(self, site: str) -> None:
        tags = {"site": site}
        self._answers = _tagged(Counter, "netgpt_answers", "answers by route and reason", tags, ("route", "reason"))
        self._latency = _tagged(
            Histogram, "netgpt_answer_ms", "milliseconds to the whole answer", tags, ("route",), LATENCY_MS
        )
        self._score = _tagged(Histogram, "netgpt_answer_score", "P(draft correct)", tags, ("route",), SCORES)
        self._swaps = _tagged(Counter, "netgpt_swaps", "weight swaps by outcome", tags, ("outcome",))

    def answered(self, answer: Answer) -> None:
        """One request was answered."""
        route = {"route": str(answer.route)}
        self._answers.inc(1, {**route, "reason": str(answer.reason)})
        self._latency.observe(max(answer.seconds * 1000, 0.01), route)
        self._score.observe(max(answer.decision.score, 1e-6), route)

    def swapped(self, report: SwapReport) -> None:
        """A swap ended."""
        self._swaps.inc(1, {"outcome": str(report.outcome)})


def metric_name(name: str) -> str:
    """``name`` as Prometheus allows it, with our prefix."""
    return PREFIX + _UNFIT.sub("_", name).removeprefix(PREFIX)


def _tagged(
    kind: Any, name: str, words: str, tags: Mapping[str, str], keys: tuple[str, ...] = (), bounds: Any = None
) -> Any:
    extra = {"boundaries": bounds} if bounds else {}
    metric = kind(name, description=words, tag_keys=(*tags, *keys), **extra)
    metric.set_default_tags(dict(tags))
    return metric
