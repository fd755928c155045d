"""Ways to learn from one log, compared: what a site's first requests taught, trained in as many ways as there are.

The site serves its first model and learns nothing, so every way sees the same labels and is compared with the same
model. PPO and DPO go on from what the anchored supervised steps made, with it as their prior. Reinforcement learning
alone is there too: what a site logs is mostly what its model cannot do, and answers that are never sampled cannot be
reinforced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.log_record import from_table
from actors.offload_log import read_log
from actors.scorer import Scorer, first_scorer
from actors.training import TrainConfig, TrainingJob, TrainingOutcome, run_job
from benchmarks.learning.measure import Looked, Worth, look
from benchmarks.learning.site import CLOUD_ACCURACY, THRESHOLD, Site, best_threshold
from orchestrator.lessons import Lessons, as_sample, lessons
from orchestrator.second_opinion import second_opinions
from orchestrator.tasks.generator import Task
from orchestrator.verdict import Answered, answered, scorer, trial
from policies.gate import GateRules, judge

STEPS = 40  # of reinforcement learning, 128 answers each: about as long as the supervised steps take
REVERSE, FORWARD, EPOCHS = 0.05, 0.5, 2  # beta_R, beta_F, passes over a step's answers (before the second no ratio)


@dataclass(frozen=True, slots=True)
class Way:
    """``training`` replaces fields of ``TrainConfig``; with ``further`` it goes on from what ``SHIPPED`` made."""

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    further: bool = False


def _ppo(name: str, reverse: float, forward: float) -> Way:
    weights = {"policy_reverse": reverse, "policy_forward": forward}
    return Way(name, {"steps": 0, "policy_steps": STEPS, "policy_epochs": EPOCHS, **weights}, further=True)


SHIPPED = Way("supervised, anchored (as shipped)")
WAYS = (
    SHIPPED,
    Way("supervised, no anchor", {"anchor_weight": 0.0}),
    _ppo("then PPO, no anchor", 0.0, 0.0),
    _ppo("then PPO, reverse KL", REVERSE, 0.0),
    _ppo("then PPO, forward KL", 0.0, FORWARD),
    _ppo("then PPO, both", REVERSE, FORWARD),
    Way("then DPO", {"steps": 0, "preference_steps": 120}, further=True),
    replace(_ppo("PPO alone, both", REVERSE, FORWARD), further=False),
)
FIRST, STALE, REFITTED = "the first model", "as shipped, scorer not refreshed", "as shipped, threshold refitted"
ROWS = (FIRST, *(way.name for way in WAYS), STALE, REFITTED)


async def compared(site: Site, work: Path, stream: Sequence[Task], fresh: Sequence[Task], ways: int) -> dict[str, Any]:
    """Play ``stream``, learn from its log in the first ``ways`` ways, judge each on ``fresh``; rows by their name."""
    await site.play(stream)
    records = from_table(read_log(site.config.log_dir))
    first = site.store.read(site.node.version)
    found = lessons(records, first.version, site.config.learner.gate_share)
    old = first_scorer(first.path)
    rows = {FIRST: _row((await look(site, fresh)).seen(old).worth(THRESHOLD), site)}
    job = _job(first.path, found, site.config.learner.seed)
    for way in WAYS[:ways]:
        began = time.process_time()
        outcome = await asyncio.to_thread(run_job, _as(way, job, work))
        spent = time.process_time() - began
        rows |= await _judged(way, outcome, found, old, site, fresh, spent)
    return {"rows": rows, "labels": len(found.labels), "labelled": found.labelled, "calls": site.calls}


def _job(first: Path, found: Lessons, seed: int) -> TrainingJob:
    config = TrainConfig(seed=seed, time_limit_s=3600.0)
    trials = [as_sample(case) for case in found.trials]
    return TrainingJob(str(first), "", found.labels, found.questions, trials, found.drift, config)


def _as(way: Way, job: TrainingJob, work: Path) -> TrainingJob:
    directory = work / str(WAYS.index(way))
    start = work / str(WAYS.index(SHIPPED)) / "candidate" if way.further else ""
    return replace(job, work_dir=str(directory), start_dir=str(start), config=replace(job.config, **way.training))


async def _judged(
    way: Way,
    outcome: TrainingOutcome,
    found: Lessons,
    old: Scorer,
    site: Site,
    fresh: Sequence[Task],
    spent: float,
) -> dict[str, Any]:
    rows, _ = await asyncio.to_thread(
        second_opinions, answered(found.trials, outcome, old), site.ask, site.config.learner.gate_calls, 0
    )
    gate = judge(trial(rows, outcome.drift_nats), GateRules())
    fitted = scorer(rows, old, CLOUD_ACCURACY)
    await site.try_out(Path(outcome.candidate_dir), way.name)
    looked = await look(site, fresh)
    told = {"gate": gate.reason, "passed": gate.passed, "drift_nats": outcome.drift_nats, "train_s": spent}
    made = {way.name: {**_row(looked.seen(fitted).worth(THRESHOLD), site), **told}}
    return made | (dict(_rejudged(looked, rows, fitted, old, site)) if way is SHIPPED else {})


def _rejudged(
    looked: Looked, rows: Sequence[Answered], fitted: Scorer, old: Scorer, site: Site
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield STALE, _row(looked.seen(old).worth(THRESHOLD), site)
    yield REFITTED, _row(looked.seen(fitted).worth(best_threshold(fitted, rows)), site)


def _row(worth: Worth, site: Site) -> dict[str, Any]:
    return {**asdict(worth), "requests": site.requests, "calls": site.calls}
