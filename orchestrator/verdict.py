"""What both models' answers to the held-out questions say: a trial for the gate, a calibrator for the candidate.

Trial. A record without a label still says something: where both models give the same answer their difference is 0;
where they differ, the candidate is assumed wrong and the base right as often as its score says, so silence never
speaks for the candidate.

Calibration. Training records are fitted by the candidate and would make it look too sure, so only held-out records
count, and three kinds of them: offloads with the cloud's word, audits with the cloud's word (heavier), and accepted
drafts without one, for which the parent's calibrated score is believed (the same answer: as probable as before;
another answer: at most what is left). Without the last kind every label would come from requests the parent found
hard. Few labels move the parent's calibrator by three numbers only (``policies.recalibrate``), pulled towards
no change: where the parent thought prompts hard that no longer are, its view of prompts loses weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat import ChatRequest
from actors.scorer import JudgedDraft, Scorer
from actors.training import Draft, TrainingOutcome
from orchestrator.lessons import LABEL_WEIGHT_CAP, Case
from policies.gate import Trial
from policies.toolcalls import parse, same_answer


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

    @property
    def right(self) -> float:
        """P(candidate right): what the cloud says, or what is assumed without its word."""
        return float(self.case.right(self.candidate.text)) if self.case.cloud else self.imputed_right

    @property
    def weight(self) -> float:
        """How many requests it stands for; what is only assumed counts once."""
        return min(self.case.weight, LABEL_WEIGHT_CAP) if self.case.cloud else 1.0


def answered(cases: Sequence[Case], outcome: TrainingOutcome, parent: Scorer) -> list[Answered]:
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


def scorer(rows: Sequence[Answered], parent: Scorer) -> Scorer:
    """The parent's scorer, moved to the candidate's answers."""
    return Scorer.fit([_judged(row) for row in rows], parent) if rows else parent


def _judged(row: Answered) -> JudgedDraft:
    asked, draft = ChatRequest(row.case.messages, row.case.tools), row.candidate
    valid = row.case.valid(draft.text)
    return JudgedDraft(asked.question, len(asked.tools), draft.logprobs, valid, row.right, row.weight)


def _belief(case: Case, draft: Draft, parent: Scorer) -> float:
    return parent.judge(ChatRequest(case.messages).question, len(case.tools), draft.logprobs, case.valid(draft.text))
