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

The cloud is not always right, so a draft that it contradicts need not be wrong. With a the cloud's accuracy and p the
score, P(right | contradicted) = p (1 - a) / (p (1 - a) + 1 - p), if a wrong draft never agrees; fit and score are found
by turns (expectation-maximisation). Taken at its word, the cloud would make every sure draft look 1 - a too bad. Ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat import ChatRequest
from actors.scorer import JudgedDraft, Scorer
from actors.training import Draft, TrainingOutcome
from orchestrator.lessons import LABEL_WEIGHT_CAP, Case
from policies.fitting import IntArray
from policies.gate import Answers, Trial
from policies.help_marker import asks_for_help
from policies.toolcalls import canonical, parse

UNREADABLE = "unreadable"
TURNS = 5  # of fit and score; they change by less than a thousandth from then on
Meaning = tuple[str, str]
"""What kind of answer, ``UNREADABLE`` or another, and what it says."""


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
        return meaning(self.base.text) == meaning(self.candidate.text)

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
    seen: dict[Meaning, int] = {}
    return Trial(
        difference=right[:, 0] - right[:, 1],
        imputed=np.array([a.imputed_gain for a in rows], dtype=np.float64),
        labelled=np.array([a.case.cloud is not None for a in rows], dtype=bool),
        propensity=np.array([a.case.record.propensity for a in rows], dtype=np.float64),
        base=_answers([(a.case, a.base.text) for a in rows], seen),
        candidate=_answers([(a.case, a.candidate.text) for a in rows], seen),
        cloud=_numbers((str(a.case.record.cloud) for a in rows if a.case.cloud), seen),
        drift_nats=drift_nats,
    )


def meaning(text: str) -> Meaning:
    """Equal for texts that mean the same."""
    if asks_for_help(text):
        return "help", ""
    answer = parse(text)
    if answer.error or not (answer.calls or answer.content):
        return UNREADABLE, text
    return ("calls", canonical(answer.calls)) if answer.calls else ("prose", " ".join(answer.content.split()))


def scorer(rows: Sequence[Answered], parent: Scorer, cloud_accuracy: float = 1.0) -> Scorer:
    """The parent's scorer, moved to the candidate's answers.

    Args:
        cloud_accuracy: P(the cloud is right), in (0, 1].
    """
    if not rows:
        return parent
    right = [row.right for row in rows]
    fitted = Scorer.fit([_judged(row, p) for row, p in zip(rows, right, strict=True)], parent)
    for _ in range(TURNS if cloud_accuracy < 1.0 else 0):
        right = [_probably_right(row, fitted, cloud_accuracy) for row in rows]
        fitted = Scorer.fit([_judged(row, p) for row, p in zip(rows, right, strict=True)], parent)
    return fitted


def _answers(given: Sequence[tuple[Case, str]], seen: dict[Meaning, int]) -> Answers:
    flaws = [case.flaw(text) for case, text in given]
    return Answers(
        valid=np.array([flaw is None for flaw in flaws], dtype=bool),
        help=np.array([asks_for_help(text) for _, text in given], dtype=bool),
        meaning=_numbers((text for _, text in given), seen),
        flaw=next((flaw for flaw, _ in Counter(filter(None, flaws)).most_common(1)), ""),
    )


def _numbers(texts: Iterable[str], seen: dict[Meaning, int]) -> IntArray:
    """A number per meaning, below 0 where nothing can be read; ``seen`` remembers them."""
    meanings = [meaning(text) for text in texts]
    numbers = [seen.setdefault(one, len(seen) + 1) for one in meanings]
    readable = [one[0] != UNREADABLE for one in meanings]
    return np.where(np.array(readable, dtype=bool), numbers, np.negative(numbers)).astype(np.int64)


def _judged(row: Answered, right: float) -> JudgedDraft:
    asked, draft = ChatRequest(row.case.messages, row.case.tools), row.candidate
    valid = row.case.valid(draft.text)
    return JudgedDraft(asked.question, len(asked.tools), draft.logprobs, valid, right, row.weight)


def _probably_right(row: Answered, fitted: Scorer, cloud_accuracy: float) -> float:
    """P(candidate right) when the cloud may be wrong itself."""
    if row.right or row.case.cloud is None:
        return row.right
    p = _belief(row.case, row.candidate, fitted)
    return p * (1.0 - cloud_accuracy) / (p * (1.0 - cloud_accuracy) + 1.0 - p)


def _belief(case: Case, draft: Draft, parent: Scorer) -> float:
    return parent.judge(ChatRequest(case.messages).question, len(case.tools), draft.logprobs, case.valid(draft.text))
