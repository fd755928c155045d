"""The demo from start to end: start, play, learn, swap under load, play again, report.

``demo`` is the command: it holds a system for one ``Demo`` and, with ``keep``, until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.build import build_cloud_leg
from actors.engine_settings import RemoteSettings
from actors.log_record import OffloadRecord
from actors.swap import SwapReport
from cluster import train_job
from orchestrator import hosting
from orchestrator.config import Config, default_config
from orchestrator.demo.live import Screen, final_table
from orchestrator.demo.play import Outcome, Player
from orchestrator.demo.reference import Point, cases, frontier, missing_answers, phase_records, with_whole_drafts
from orchestrator.demo.report import write_report
from orchestrator.demo.summary import PhaseResult, longest_gap_ms, phase_summary
from orchestrator.demo.workload import Phase, Stage, stages, traffic
from orchestrator.learner import RoundReport
from orchestrator.serving import welcome
from orchestrator.system import System, Urls
from orchestrator.tasks.generator import Task

SETTLE_S = 1.5  # three probes: a new link state is seen before it is judged
SWAP_MARGIN_S = 2.0  # requests run this long before and after the swap
SWAP_SEED = 3


@dataclass(frozen=True, slots=True)
class SwapUnderLoad:
    """A swap and the requests that ran meanwhile."""

    report: SwapReport
    outcomes: tuple[Outcome, ...]

    def summary(self) -> dict[str, Any]:
        """The ``swap`` part of summary.json."""
        return {
            "from": self.report.previous,
            "to": self.report.version,
            "gap_ms": 1e3 * self.report.gap_s,
            "longest_silence_ms": longest_gap_ms(self.outcomes),
            "requests": len(self.outcomes),
            "failed_requests": sum(o.info is None for o in self.outcomes),
        }


def demo_config(var: Path) -> Config:
    """The embedded default on free ports, with an audit rate and prices that make a short run tell something."""
    return default_config(
        var=var,
        site={"name": "demo", "port": 0, "audit_rate": 0.1},
        cloud={"call": {"connect_timeout_s": 2.0, "timeout_s": 6.0}},
        policy={"objective": {"value_usd": 0.003, "second_usd": 0.0008, "cloud_accuracy": 0.96}},
        prices={"input_usd_per_mtok": 0.28, "cached_usd_per_mtok": 0.028, "output_usd_per_mtok": 0.42},
        telemetry={"probe_interval_s": 0.5},
        ray={"dashboard_port": 0},
    )


def demo(var: Path, seed: int, keep: bool, console: Console) -> None:
    """Run it, with everything under ``var``; ``keep`` leaves the system serving afterwards.

    Raises:
        NetGPTError: the system could not be started, or a part of the demo failed.
    """
    config = demo_config(var)
    hosting.refuse_second(config)
    clear(config)
    screen = Screen(console)

    def work(system: System, urls: Urls) -> None:
        summary = Demo(config, seed, screen).run(system)
        screen.close()
        console.print(final_table(summary["phases"]))
        for line in closing(config, summary):
            console.print(line, highlight=False)
        if keep:
            console.print("\n".join(welcome(config, urls)), highlight=False)
            hosting.sleep_forever()
        screen.open()

    with screen:
        hosting.hold(config, screen.stage, work, lambda: screen.doing("stopping"), hosting.real)


class Demo:
    """One run. ``seed`` decides the tasks, ``given`` the link states and how much is asked."""

    def __init__(self, config: Config, seed: int, screen: Screen, given: tuple[Stage, ...] | None = None) -> None:
        self._config, self._seed, self._screen = config, seed, screen
        self._stages = given or stages()

    def run(self, system: System) -> dict[str, Any]:
        """Play, learn, swap, play; ``system`` runs. Returns the summary, which is also written beside the report."""
        began = time.monotonic()
        url = system.urls.endpoint
        before = self._play(system, url, Phase("before", 100 + 2 * self._seed))
        learned = self._learn(system)
        swap = self._swap(system, url, learned) if learned.version else None
        after = self._play(system, url, Phase("after", 101 + 2 * self._seed))
        self._screen.doing("finding out what else could have been answered, for the report")
        points = self._frontier(system, before)
        summary = {**self._summary([before, after], learned, swap), "seconds": time.monotonic() - began}
        self._write(summary, [before, after], points)
        return summary

    def _play(self, system: System, url: str, phase: Phase) -> PhaseResult:
        self._screen.begin(phase.name)
        version = str(system.site_info()["version"])
        return PhaseResult(phase.name, version, tuple(asyncio.run(self._stages_of(system, url, phase))))

    async def _stages_of(self, system: System, url: str, phase: Phase) -> list[Outcome]:
        player = Player(url, self._config.site.served_model, self._screen.see)
        outcomes: list[Outcome] = []
        try:
            for stage, batch in zip(self._stages, phase.tasks(self._stages), strict=True):
                self._screen.doing(f"{phase.name}: link is {stage.link.name}")
                await asyncio.to_thread(system.set_link, stage.link)
                await asyncio.sleep(SETTLE_S)
                outcomes += await player.play(stage.link.name, batch)
        finally:
            await player.close()
        return outcomes

    def _learn(self, system: System) -> RoundReport:
        self._screen.doing("training on what was offloaded (a Ray Train job)", self._training)
        report = system.learn()
        self._screen.say(f"learner: {report.reason} ({report.samples} samples, {report.seconds:.0f} s)")
        return report

    def _training(self) -> str:
        figures = train_job.read_progress(self._config.work_dir)
        if not figures:
            return "starting"
        return f"step {figures['step']:.0f} of {figures['steps']:.0f}, loss {figures['loss']:.3f}"

    def _swap(self, system: System, url: str, learned: RoundReport) -> SwapUnderLoad:
        assert learned.version is not None
        self._screen.begin("during the swap")
        self._screen.doing("swapping the weights while requests run")
        version = learned.version
        return asyncio.run(self._swap_under_load(url, lambda: system.swap(version)))

    async def _swap_under_load(self, url: str, swap: Callable[[], SwapReport]) -> SwapUnderLoad:
        player = Player(url, self._config.site.served_model, self._screen.see)
        over = threading.Event()
        stream = traffic(SWAP_SEED)

        async def load() -> list[Outcome]:
            seen: list[Outcome] = []
            while not over.is_set():
                seen += await player.play("recovered", list(itertools.islice(stream, 12)))
            return seen

        running = asyncio.create_task(load())
        try:
            await asyncio.sleep(SWAP_MARGIN_S)
            report = await asyncio.to_thread(swap)
            await asyncio.sleep(SWAP_MARGIN_S)
        finally:
            over.set()
            outcomes = await running
            await player.close()
        return SwapUnderLoad(report, tuple(outcomes))

    def _frontier(self, system: System, phase: PhaseResult) -> dict[str, list[Point]]:
        logged = phase_records(self._config.log_dir, [o.task for o in phase.outcomes])
        pairs = with_whole_drafts(logged, system.store.get(phase.version).path)
        answers = asyncio.run(_missing(system.urls, pairs))
        policy = self._config.policy
        return frontier(cases(pairs, answers, policy.objective, policy.speed))

    def _summary(
        self, phases: Sequence[PhaseResult], learned: RoundReport, swap: SwapUnderLoad | None
    ) -> dict[str, Any]:
        return {
            "phases": [phase_summary(phase) for phase in phases],
            "swap": swap.summary() if swap else None,
            "learner": {
                "samples": learned.samples,
                "rounds": 1 if learned.version else 0,
                "seconds": learned.seconds,
                "gate": learned.reason,
            },
            "seed": self._seed,
        }

    def _write(self, summary: dict[str, Any], phases: Sequence[PhaseResult], points: dict[str, list[Point]]) -> None:
        directory = self._config.var
        (directory / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        write_report(directory / "report.html", summary, phases, points)


def clear(config: Config) -> None:
    """Remove what an earlier demo left, so that every run starts from the bundled model."""
    for directory in (config.log_dir, config.store_dir, config.work_dir):
        shutil.rmtree(directory, ignore_errors=True)


def closing(config: Config, summary: dict[str, Any]) -> Iterator[str]:
    """Lines that say what came out and where it is."""
    if swap := summary["swap"]:
        yield (
            f"{swap['from']} -> {swap['to']} while {swap['requests']} requests ran: "
            f"{swap['failed_requests']} failed, no engine step for {swap['gap_ms']:.0f} ms"
        )
    else:
        yield f"no swap: {summary['learner']['gate']}"
    yield f"played and trained in {summary['seconds']:.0f} s"
    yield f"figures  {config.var / 'summary.json'}"
    yield f"report   {config.var / 'report.html'}"


async def _missing(urls: Urls, pairs: Sequence[tuple[Task, OffloadRecord]]) -> dict[str, str]:
    cloud = build_cloud_leg(urls.cloud, urls.cloud_model, RemoteSettings())
    try:
        return await missing_answers(cloud, pairs)
    finally:
        await cloud.close()
