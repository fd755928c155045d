"""A running system under load for ten minutes with a fault every 20 s: what clients, the log and memory notice.

The embedded default (edge, cloud, router, emulated link, learner's loop) is first asked ever more often, as requests
arrive and not as they are answered, until it does not keep up; then for ten minutes 80 % of that, while faults are
caused in turn. A request whose connection was held by the process that was killed has no answer: the client saw the
connection close, and is counted apart, as is who could not connect while that process started again. Audits are off:
the record of an audited answer is written after its audit, and a kill in between takes it along.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from actors.offload_log import read_log
from benchmarks.figures import parser, percentile, publish
from benchmarks.soak.faults import Fault, Faults, small_disk
from benchmarks.soak.load import Outcome, play
from benchmarks.soak.memory import watching
from benchmarks.soak.report import Soak, details, figures
from orchestrator.config import Config
from orchestrator.demo.run import demo_config
from orchestrator.system import System

SHARE = 0.8  # of the sustained load
KEPT_UP_S = 1.0  # 95 % of the answers come within it, or requests pile up
FIRST_PER_S, MOST_PER_S = 8.0, 400.0
WARM_UP_S = 5.0
WRITTEN_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, a fault how often, and how the load is found: seconds a step, and by how much the next is higher."""

    seconds: float
    every_s: float
    step_s: float
    factor: float


FULL, QUICK = Plan(600.0, 20.0, 6.0, 1.25), Plan(64.0, 8.0, 3.0, 1.5)


def soak(system: System, disk: Path | None, scratch: Path, plan: Plan) -> Soak:
    """Find the load, play it, cause faults, and look at what is left."""
    url = system.urls.endpoint
    faults = Faults(system, disk, scratch)
    sustained_per_s = calibrate(url, plan)
    per_s, began_s = SHARE * sustained_per_s, time.monotonic()
    with watching() as memory, ThreadPoolExecutor(1) as pool:
        playing = pool.submit(play, url, per_s, plan.seconds, 1)
        caused = list(cause(faults, plan, began_s))
        outcomes = playing.result()
    over_s = began_s + plan.seconds
    shed = faults.shed + sum(fault.shed for fault in caused)
    return Soak(sustained_per_s, per_s, began_s, over_s, outcomes, caused, written(system), shed, memory)


def calibrate(url: str, plan: Plan) -> float:
    """The highest load of which every request is answered and nearly all soon."""
    play(url, FIRST_PER_S, WARM_UP_S, 0)
    per_s, sustained_per_s = FIRST_PER_S, 0.0
    while per_s < MOST_PER_S and kept_up(play(url, per_s, plan.step_s, 0)):
        per_s, sustained_per_s = plan.factor * per_s, per_s
    if not sustained_per_s:
        raise SystemExit(f"{per_s:g} requests a second are too many for this machine")
    return sustained_per_s


def kept_up(outcomes: list[Outcome]) -> bool:
    """Whether all were answered, and nearly all soon."""
    taken_s = [outcome.over_s - outcome.asked_s for outcome in outcomes]
    return all(outcome.status == 200 for outcome in outcomes) and percentile(taken_s, 0.95) <= KEPT_UP_S


def cause(faults: Faults, plan: Plan, began_s: float) -> Iterator[Fault]:
    """One fault after the other, each at its time, the last early enough to be over before the load ends."""
    for number, kind in enumerate(cycle(faults.kinds)):
        at_s = began_s + (number + 0.25) * plan.every_s
        if at_s + plan.every_s / 2 > began_s + plan.seconds:
            return
        time.sleep(max(at_s - time.monotonic(), 0.0))
        yield faults.cause(kind)


def written(system: System) -> list[str]:
    """The request ids in the log, once all of it is on disk."""
    deadline = time.monotonic() + WRITTEN_S
    while system.gauges()["log_lag"] and time.monotonic() < deadline:
        time.sleep(0.2)
    ids: list[str] = read_log(system.config.log_dir)["request_id"].to_pylist()
    return ids


def soak_config(var: Path, disk: Path | None) -> Config:
    """The embedded default with the demo's prices, its log on ``disk``; no audits, no rounds."""
    config = demo_config(var)
    return config.model_copy(
        update={
            "site": config.site.model_copy(update={"audit_rate": 0.0}),
            "learner": config.learner.model_copy(update={"enabled": False}),
            "log": config.log.model_copy(update={"dir": disk / "log"} if disk else {}),
        }
    )


def main() -> int:
    """The command line."""
    options = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="netgpt-soak-") as root, small_disk(Path(root) / "disk") as disk:
        system = System(soak_config(Path(root) / "var", disk))
        system.start()
        try:
            with system.improving():
                seen = soak(system, disk, Path(root), QUICK if options.quick else FULL)
        finally:
            system.stop()
    return publish("Faults under load", figures(seen), options, details(seen))


if __name__ == "__main__":
    sys.exit(main())
