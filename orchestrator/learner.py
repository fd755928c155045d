"""A training round: offload log -> lessons -> job -> candidate -> gate -> calibrator, scorer, threshold -> model store.

``Learner.round`` blocks for as long as the job takes and never raises, whatever it meets (too few records, poisoned
ones, files that cannot be read, a job that dies, a full disk, a gate that refuses): it reports the reason with the
counts of what was skipped, and what was live stays live. Besides the answers, the gate looks at the candidate's files:
they must load, be the ones that were judged, and come from what is still live. The learner sees only the log, besides
the few questions it may ask the cloud (``second_opinion``). How the job runs is passed in:
``cluster.train_job.Workers.run``, or ``actors.training.run_job`` in this process. Not here: telling the sites (a
``Swap`` directive), scheduling rounds.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from actors.feedback_log import read_feedback
from actors.log_record import OffloadRecord, from_table
from actors.model_store import ModelStore, ModelVersion, digests
from actors.offload_log import compact, read_log
from actors.options import LearnerOptions
from actors.scorer import first_scorer
from actors.training import TrainConfig, TrainingJob, TrainingOutcome
from actors.weights import check_weights, read_shapes
from orchestrator.lessons import Lessons, as_sample, lessons
from orchestrator.screening import screen
from orchestrator.second_opinion import Ask, second_opinions
from orchestrator.verdict import Answered, answered, scorer, trial
from orchestrator.versions import last_live
from policies.errors import EngineError, LogError, NetGPTError
from policies.gate import GateResult, GateRules, judge
from policies.replay_weights import ReplayRules

logger = logging.getLogger(__name__)

Train = Callable[[TrainingJob, str], TrainingOutcome]
"""Runs a job under a readable name; raises ``EngineError``, or ``CancelledError`` where the system stops."""

Refit = Callable[[Path, Sequence[Answered], Sequence[OffloadRecord]], Mapping[str, str]]
"""Fits what else belongs to a candidate's weights; says what became of it. ``orchestrator.refit`` has the one."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round did; ``version`` is None unless the candidate was published, ``reason`` always says why.

    ``given`` names the sites that got a version of their own instead (``orchestrator.personal``), and ``refits`` says
    what became of the scorer and the threshold, where the site's configuration asks for fitted ones.
    """

    reason: str
    seconds: float = 0.0
    samples: int = 0
    poisoned: Mapping[str, int] = field(default_factory=dict)
    gate: GateResult | None = None
    version: ModelVersion | None = None
    given: Sequence[str] = ()
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
        site: whose records count, and for whom the version is; None for all sites.
        ask: the cloud, for ``orchestrator.second_opinion``; None judges by the log alone.
        cloud_accuracy: P(the cloud is right), for the calibration.
    """

    def __init__(
        self,
        log_dir: Path,
        store: ModelStore,
        options: LearnerOptions,
        work_dir: Path,
        train: Train,
        refit: Refit,
        site: str | None = None,
        ask: Ask | None = None,
        cloud_accuracy: float = 1.0,
    ) -> None:
        self._log_dir, self._store, self._options, self._site, self._ask = log_dir, store, options, site, ask
        self._cloud_accuracy = cloud_accuracy
        self.work_dir, self._train, self._refit = work_dir, train, refit

    def round(self, parent: ModelVersion | None = None, start: ModelVersion | None = None) -> RoundReport:
        """One round to replace ``parent`` (by default what is live, or the newest edge version where nothing ever ran).

        Training starts from ``start``, by default the parent; the gate compares with the parent.
        """
        started = time.monotonic()
        try:
            shutil.rmtree(self.work_dir, ignore_errors=True)  # what a round that was killed left
            report = self._round(parent or last_live(self._store, self._site), start)
        except CancelledError as why:
            report = RoundReport(f"cut off: {why}")
        except NetGPTError as why:
            logger.exception("a training round failed")
            report = RoundReport(f"failed: {why}")
        except Exception as why:  # a disk that is full, a library that gives up: what is live must not go with it
            logger.exception("a training round failed")
            report = RoundReport(f"failed: {type(why).__name__}: {why}")
        finally:
            shutil.rmtree(self.work_dir, ignore_errors=True)
        report = replace(report, seconds=time.monotonic() - started)
        logger.info("training round: %s (%.1f s, %d samples)", report.reason, report.seconds, report.samples)
        for name, said in report.refits.items():
            logger.info("its %s: %s", name, said)
        return report

    def _round(self, parent: ModelVersion | None, start: ModelVersion | None) -> RoundReport:
        if parent is None:
            return RoundReport("the model store holds no edge version to start from")
        records, skipped = self._read()
        verdicts = read_feedback(self._log_dir)
        found = lessons(records, parent.version, self._options.gate_share, self._replay(), verdicts)
        found = replace(found, poisoned=dict(skipped + Counter(found.poisoned)))
        known = RoundReport("", samples=len(found.labels), poisoned=found.poisoned)
        report = self._learn(parent, start or parent, records, found, known)
        return replace(report, reason=report.reason + _skipped(found.poisoned))

    def _learn(
        self,
        parent: ModelVersion,
        start: ModelVersion,
        records: Sequence[OffloadRecord],
        found: Lessons,
        known: RoundReport,
    ) -> RoundReport:
        if found.labelled < self._options.min_samples or not found.labels:
            few = f"{found.labelled} labelled records, {self._options.min_samples} are needed"
            return replace(known, reason=few)
        if why := self._stale(parent):
            return replace(known, reason=why)
        outcome = self._train(self._job(parent, start, found), f"netgpt-train-{start.version}")
        return self._judge(parent, records, found, outcome, known)

    def _judge(
        self,
        parent: ModelVersion,
        records: Sequence[OffloadRecord],
        found: Lessons,
        outcome: TrainingOutcome,
        known: RoundReport,
    ) -> RoundReport:
        candidate, known = Path(outcome.candidate_dir), replace(known, figures=outcome.figures)
        if why := self._unfit(parent, outcome):
            return _refused(known, GateResult(False, why))
        old = first_scorer(parent.path)
        rows, calls = self._opinions(answered(found.trials, outcome, old))
        known = replace(known, figures={**outcome.figures, "gate_calls": float(calls)})
        gate = judge(trial(rows, outcome.drift_nats), self._rules())
        if not gate.passed:
            return _refused(known, gate)
        scorer(rows, old, self._cloud_accuracy).save(candidate)
        known = replace(known, gate=gate, refits=self._refit(candidate, rows, records))
        if why := self._unfit(parent, outcome):  # again: fitting takes a while
            return _refused(known, replace(gate, passed=False, reason=why))
        meta = {**self._lineage(records, found, gate, known.figures), "refits": dict(known.refits)}
        version = self._store.publish(candidate, "edge", parent.version, meta)
        return replace(known, reason=f"published {version.version}: {gate.reason}", version=version)

    def _opinions(self, rows: list[Answered]) -> tuple[list[Answered], int]:
        if self._ask is None or not self._options.gate_calls:
            return rows, 0
        return second_opinions(rows, self._ask, self._options.gate_calls, self._options.seed)

    def _unfit(self, parent: ModelVersion, outcome: TrainingOutcome) -> str | None:
        """Why the candidate may not be published whatever it answers."""
        return self._stale(parent) or _damage(Path(outcome.candidate_dir), parent) or _changed(outcome)

    def _stale(self, parent: ModelVersion) -> str | None:
        """Why no child of ``parent`` may follow what is live now."""
        release, resumed = self._store.release, last_live(self._store, self._site)
        if release is None or parent.version in (release.of(self._site), resumed and resumed.version):
            return None
        return f"stale: it comes from {parent.version}, and {release.of(self._site)} is live"

    def _read(self) -> tuple[list[OffloadRecord], Counter[str]]:
        """The records that make sense, and how many were skipped, by reason."""
        try:
            compact(self._log_dir)
        except (LogError, OSError) as why:
            logger.warning("%s", why)  # segments are as readable as parts, only slower
        skipped: Counter[str] = Counter()
        table = read_log(self._log_dir, skipped=skipped)
        if self._site:
            table = table.filter(pc.field("site") == self._site)
        table, senseless = screen(table, time.time_ns() // 1000)
        return from_table(table), skipped + Counter(senseless)

    def _job(self, parent: ModelVersion, start: ModelVersion, found: Lessons) -> TrainingJob:
        for version in (parent, start):
            self._store.get(version.version)  # verified: nothing is trained from damaged weights
        return TrainingJob(
            base_dir=str(parent.path.absolute()),
            start_dir=str(start.path.absolute()),
            work_dir=str(self.work_dir.absolute()),
            labels=found.labels,
            questions=found.questions,
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
            batch_tokens=o.batch_tokens,
            lr=o.lr,
            anchor_weight=o.anchor_weight,
            method=o.method,
            lora_rank=o.lora_rank,
            policy_steps=o.policy_steps,
            policy_lr=o.policy_lr,
            threads=o.threads,
            seed=o.seed,
            time_limit_s=o.timeout_s / 2,  # the other half is for evaluation and for starting and ending the job
        )

    def _replay(self) -> ReplayRules:
        o = self._options
        return ReplayRules(o.half_life or math.inf, o.known_weight)

    def _rules(self) -> GateRules:
        o = self._options
        return GateRules(confidence=o.confidence, drift_cap_nats=o.drift_cap, seed=o.seed)

    def _lineage(
        self, records: Sequence[OffloadRecord], found: Lessons, gate: GateResult, figures: Mapping[str, float]
    ) -> dict[str, Any]:
        seqs: dict[str, list[int]] = {}
        for record in records:
            seqs.setdefault(record.site, []).append(record.seq)
        return {
            "log": {site: [min(numbers), max(numbers)] for site, numbers in seqs.items()},
            **({"site": self._site} if self._site else {}),
            "samples": len(found.labels),
            "anchors": int(figures.get("kept", 0)),
            "poisoned": dict(found.poisoned),
            "options": self._options.model_dump(mode="json"),
            "gate": {"reason": gate.reason, **gate.figures},
            "training": dict(figures),
        }


def _damage(candidate: Path, parent: ModelVersion) -> str | None:
    """Why no engine could load the weights in ``candidate`` in the place of ``parent``'s."""
    try:
        check_weights(candidate, read_shapes(parent.path))
    except EngineError as why:
        return f"corrupt: {why}"
    return None


def _changed(outcome: TrainingOutcome) -> str | None:
    """Which file with weights is no longer the one that answered."""
    found = digests(Path(outcome.candidate_dir))
    changed = [name for name, digest in outcome.weights.items() if found.get(name) != digest]
    return f"corrupt: {changed[0]} has another checksum than when it answered" if changed else None


def _refused(known: RoundReport, gate: GateResult) -> RoundReport:
    return replace(known, gate=gate, reason=f"the gate refused: {gate.reason}")


def _skipped(poisoned: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {why}" for why, count in poisoned.items())
    return f" (skipped: {listed})" if listed else ""
