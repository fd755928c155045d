"""What both models' answers to the held-out questions say: a trial for the gate, a calibrator for the candidate.

Trial. A record without a label still says something: where both models give the same answer their difference is 0;
where they differ, the candidate is assumed wrong and the base right as often as its score says, so silence never
speaks for the candidate.

Calibration. Training records are fitted by the candidate and would make it look too sure, so only held-out records
count, and three kinds of them: offloads with the cloud's word, audits with the cloud's word (heavier), and accepted
drafts without one, for which the parent's calibrated score is believed (the same answer: as probable as before;
another answer: at most what is left). Without the last kind every label would come from requests the parent found
hard. Few labels move the parent's calibrator by two numbers only (``policies.recalibrate``), pulled towards no
change.

Forecast. What a prompt says about its draft is the parent's view of prompts with the candidate's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat import ChatRequest
from actors.training import Draft, TrainingOutcome
from orchestrator.lessons import LABEL_WEIGHT_CAP, Case
from policies.calibration import Calibrator
from policies.forecast import MIN_SAMPLES, Forecast
from policies.gate import Trial
from policies.recalibrate import recalibrate
from policies.score import features
from policies.toolcalls import parse, same_answer

FRESH = 200  # answers for a forecast from nothing: fewer teach no words


@dataclass(frozen=True, slots=True)
class Answered:
    """One held-out question with both answers; ``belief`` is the parent's P(its own answer is right)."""

    case: Case
    base: Draft
    candidate: Draft
    belief: float

    @property
    def same(self) -> bool:
        """Whether both say the same."""
        return self.base.text == self.candidate.text or same_answer(parse(self.base.text), parse(self.candidate.text))

    @property
    def imputed_gain(self) -> float:
        """Success difference that is assumed where there is no label."""
        return 0.0 if self.same else -self.belief

    @property
    def imputed_right(self) -> float:
        """P(candidate right) that is assumed where there is no label; another answer gets half of what is left."""
        return self.belief if self.same else (1.0 - self.belief) / 2.0


def answered(cases: Sequence[Case], outcome: TrainingOutcome, parent: Calibrator) -> list[Answered]:
    """Pair questions with answers; a question that fits neither model's context is left out."""
    rows = zip(cases, outcome.base, outcome.candidate, strict=True)
    return [
        Answered(case, base, candidate, _belief(case, base, parent))
        for case, base, candidate in rows
        if base is not None and candidate is not None
    ]


def trial(rows: Sequence[Answered], drift_nats: float) -> Trial:
    """The gate's view of ``rows``."""
    right = np.array([(a.case.right(a.candidate.text), a.case.right(a.base.text)) for a in rows], dtype=np.float64)
    right = right.reshape(-1, 2)
    return Trial(
        difference=right[:, 0] - right[:, 1],
        imputed=np.array([a.imputed_gain for a in rows], dtype=np.float64),
        labelled=np.array([a.case.cloud is not None for a in rows], dtype=bool),
        propensity=np.array([a.case.record.propensity for a in rows], dtype=np.float64),
        base_valid=np.array([a.case.valid(a.base.text) for a in rows], dtype=bool),
        candidate_valid=np.array([a.case.valid(a.candidate.text) for a in rows], dtype=bool),
        drift_nats=drift_nats,
    )


def calibrator(rows: Sequence[Answered], parent: Calibrator) -> Calibrator:
    """The parent's calibrator, moved to the candidate's valid answers."""
    valid = [a for a in rows if a.case.valid(a.candidate.text)]
    if not valid:
        return parent
    return recalibrate(
        parent,
        np.array([features(a.candidate.logprobs) for a in valid]),
        np.array([_target(a) for a in valid], dtype=np.float64),
        np.array([_weight(a.case) for a in valid], dtype=np.float64),
    )


def forecast(rows: Sequence[Answered], parent: Forecast | None, scores: Calibrator) -> Forecast | None:
    """The candidate's forecast from its answers as ``scores`` sees them; None where there are too few."""
    if len(rows) < (FRESH if parent is None else MIN_SAMPLES):
        return None
    asked = [ChatRequest(a.case.messages, a.case.tools) for a in rows]
    questions, tools = [request.question for request in asked], [len(request.tools) for request in asked]
    found = np.array([_belief(a.case, a.candidate, scores) for a in rows], dtype=np.float64)
    return parent.respread(questions, tools, found) if parent else Forecast.fit(questions, tools, found)


def _belief(case: Case, draft: Draft, parent: Calibrator) -> float:
    return float(parent.predict(features(draft.logprobs))) if case.valid(draft.text) else 0.0


def _target(row: Answered) -> float:
    return float(row.case.right(row.candidate.text)) if row.case.cloud else row.imputed_right


def _weight(case: Case) -> float:
    return min(case.weight, LABEL_WEIGHT_CAP) if case.cloud else 1.0
