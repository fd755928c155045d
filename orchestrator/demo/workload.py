"""What the demo asks, and over which links.

Each phase (before and after the swap) plays fresh tasks of the test split, which no model was trained on, through
the same five link states; the difference between the phases is the edge model alone. The site's traffic is its own: it
asks for a few tools often that the edge model met seldom in its training. That is what learning at a site is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.link_emulator import LinkSpec
from cluster.traces import resolve
from orchestrator.bundled.recipes import SELDOM
from orchestrator.tasks.generator import KINDS, Split, Task, tasks

MIX = {kind: 3.0 if kind in SELDOM else 1.0 for kind in KINDS}
"""How often the site's users ask for each kind of task, relative to each other."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A link state and how many requests are made while it lasts."""

    link: LinkSpec
    requests: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One play of the workload; ``seed`` decides its tasks."""

    name: str
    seed: int

    def tasks(self, stages: tuple[Stage, ...]) -> list[list[Task]]:
        """The tasks of each stage."""
        stream = traffic(self.seed)
        return [list(itertools.islice(stream, stage.requests)) for stage in stages]


def traffic(seed: int) -> Iterator[Task]:
    """The site's requests, without end."""
    return tasks(seed, Split.TEST, MIX)


def stages() -> tuple[Stage, ...]:
    """Wide and near, a cellular trace, narrow and far, an outage, and the way back: 520 requests."""
    driving = {side: resolve(f"driving.{side}") for side in ("up", "down")}
    return (
        Stage(LinkSpec("wide", up=50e6, down=100e6, delay_ms=5.0), 140),
        Stage(LinkSpec("cellular", up=driving["up"], down=driving["down"], delay_ms=30.0, jitter_ms=5.0), 140),
        Stage(LinkSpec("narrow", up=128e3, down=256e3, delay_ms=200.0, jitter_ms=10.0), 120),
        Stage(LinkSpec("outage", up=50e6, down=100e6, delay_ms=5.0, outage=True), 60),
        Stage(LinkSpec("recovered", up=50e6, down=100e6, delay_ms=5.0), 60),
    )
