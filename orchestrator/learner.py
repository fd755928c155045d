"""A training round: offload log -> lessons -> job -> candidate -> gate -> calibrator, scorer, threshold -> model store.

``Learner.round`` blocks for as long as the job takes and never raises for what a round can meet (too few records,
poisoned ones, a job that fails, a gate that refuses): it reports the reason, and what was live stays live. The
learner sees only the log. How the job runs is passed in: ``cluster.train_job.Workers.run``, or
``actors.training.run_job`` in this process. Not here: telling the sites (a ``Swap`` directive), scheduling rounds.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.log_record import OffloadRecord, from_table
from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import compact, read_log
from actors.options import LearnerOptions
from actors.scorer import first_scorer
from actors.training import TrainConfig, TrainingJob, TrainingOutcome
from orchestrator.lessons import Lessons, as_sample, lessons
from orchestrator.verdict import Answered, answered, scorer, trial
from policies.errors import LogError, NetGPTError
from policies.gate import GateResult, GateRules, judge

logger = logging.getLogger(__name__)

Train = Callable[[TrainingJob, str], TrainingOutcome]
"""Runs a job under a readable name; raises ``EngineError``."""

Refit = Callable[[Path, Sequence[Answered], Sequence[OffloadRecord]], Mapping[str, str]]
"""Fits what else belongs to a candidate's weights; says what became of it. ``orchestrator.refit`` has the one."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round did; ``version`` is None unless the candidate was published, ``reason`` always says why.

    ``refits`` says what became of the scorer and the threshold, where the site's configuration asks for fitted ones.
    """

    reason: str
    seconds: float = 0.0
    samples: int = 0
    anchors: int = 0
    poisoned: Mapping[str, int] = field(default_factory=dict)
    gate: GateResult | None = None
    version: ModelVersion | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    refits: Mapping[str, str] = field(default_factory=dict)


class Learner:
    """Rounds over the logs of all sites.

    Args:
        log_dir: root of the offload log.
        store: where the parent comes from and the candidate goes.
        options: sizes, hyper-parameters, the gate's conditions.
        work_dir: scratch space, emptied after each round; the training worker must see it.
        train: how a job is run.
        refit: what sites need of a version besides its calibrator.
    """

    def __init__(
        self, log_dir: Path, store: ModelStore, options: LearnerOptions, work_dir: Path, train: Train, refit: Refit
    ) -> None:
        self._log_dir, self._store, self._options = log_dir, store, options
        self.work_dir, self._train, self._refit = work_dir, train, refit

    def round(self, parent: ModelVersion | None = None) -> RoundReport:
        """One round from ``parent`` (the newest edge version by default)."""
        started = time.monotonic()
        try:
            report = self._round(parent or self._store.latest("edge"))
        except NetGPTError as why:
            logger.exception("a training round failed")
            report = RoundReport(f"failed: {why}")
        finally:
            shutil.rmtree(self.work_dir, ignore_errors=True)
        report = replace(report, seconds=time.monotonic() - started)
        logger.info("training round: %s (%.1f s, %d samples)", report.reason, report.seconds, report.samples)
        for name, said in report.refits.items():
            logger.info("its %s: %s", name, said)
        return report

    def _round(self, parent: ModelVersion | None) -> RoundReport:
        if parent is None:
            return RoundReport("the model store holds no edge version to start from")
        records = self._read()
        found = lessons(records, parent.version, self._options.gate_share)
        known = RoundReport("", samples=len(found.labels), anchors=len(found.anchors), poisoned=found.poisoned)
        if found.labelled < self._options.min_samples or not found.labels:
            few = f"{found.labelled} labelled records, {self._options.min_samples} are needed"
            return replace(known, reason=f"{few}{_skipped(found.poisoned)}")
        outcome = self._train(self._job(parent, found), f"netgpt-train-{parent.version}")
        return self._judge(parent, records, found, outcome, known)

    def _judge(
        self,
        parent: ModelVersion,
        records: Sequence[OffloadRecord],
        found: Lessons,
        outcome: TrainingOutcome,
        known: RoundReport,
    ) -> RoundReport:
        old = first_scorer(parent.path)
        rows = answered(found.trials, outcome, old)
        gate = judge(trial(rows, outcome.drift_nats), self._rules())
        known = replace(known, gate=gate, figures=outcome.figures)
        if not gate.passed:
            return replace(known, reason=f"the gate refused: {gate.reason}")
        candidate = Path(outcome.candidate_dir)
        scorer(rows, old).save(candidate)
        known = replace(known, refits=self._refit(candidate, rows, records))
        meta = {**self._lineage(records, found, gate, outcome), "refits": dict(known.refits)}
        version = self._store.publish(candidate, "edge", parent.version, meta)
        return replace(known, reason=f"published {version.version}: {gate.reason}", version=version)

    def _read(self) -> list[OffloadRecord]:
        try:
            compact(self._log_dir)
        except LogError as why:
            logger.warning("%s", why)  # segments are as readable as parts, only slower
        return from_table(read_log(self._log_dir))

    def _job(self, parent: ModelVersion, found: Lessons) -> TrainingJob:
        self._store.get(parent.version)  # verified: nothing is trained from damaged weights
        return TrainingJob(
            base_dir=str(parent.path.absolute()),
            work_dir=str(self.work_dir.absolute()),
            labels=found.labels,
            anchors=found.anchors,
            trials=[as_sample(case) for case in found.trials],
            drift=found.drift,
            config=self._config(),
        )

    def _config(self) -> TrainConfig:
        o = self._options
        return TrainConfig(
            steps=o.steps,
            variants=o.variants,
            batch_size=o.batch_size,
            lr=o.lr,
            anchor_weight=o.anchor_weight,
            policy_steps=o.policy_steps,
            policy_lr=o.policy_lr,
            threads=o.threads,
            seed=o.seed,
            time_limit_s=o.timeout_s / 2,  # the other half is for evaluation and for starting and ending the job
        )

    def _rules(self) -> GateRules:
        o = self._options
        return GateRules(confidence=o.confidence, drift_cap_nats=o.drift_cap, seed=o.seed)

    def _lineage(
        self, records: Sequence[OffloadRecord], found: Lessons, gate: GateResult, outcome: TrainingOutcome
    ) -> dict[str, Any]:
        seqs: dict[str, list[int]] = {}
        for record in records:
            seqs.setdefault(record.site, []).append(record.seq)
        return {
            "log": {site: [min(numbers), max(numbers)] for site, numbers in seqs.items()},
            "samples": len(found.labels),
            "anchors": len(found.anchors),
            "poisoned": dict(found.poisoned),
            "options": self._options.model_dump(mode="json"),
            "gate": {"reason": gate.reason, **gate.figures},
            "training": dict(outcome.figures),
        }


def _skipped(poisoned: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {why}" for why, count in poisoned.items())
    return f" (skipped: {listed})" if listed else ""
