"""From the offload log to what a round works on: screening, the split, what to learn, what to keep.

``lessons`` reads records only; it never sees a task's ground truth, and the cloud's answer is the label. An answer
that does not parse, fails a tool's schema or is absurdly long is *poisoned*: skipped and counted. The split into
training and gate is by the hash of the question, so a question that was asked twice never lies on both sides. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.log_record import OffloadRecord
from actors.training import Sample
from orchestrator.screening import LEAST_PROPENSITY
from policies.toolcalls import check, parse, render, same_answer, schema_error
from policies.types import ParsedText, Reason

MAX_ANSWER_CHARS = 8000  # ten times a long tool call; a model that loops writes more
LABEL_WEIGHT_CAP = 4.0  # an audit stands for 1 / rate accepted drafts; more weight on one record only adds noise
# Newest first when there are more: what bounds a round's time, each about a minute at most on one core.
MAX_LABELS, MAX_ANCHORS, MAX_TRIALS, MAX_DRIFT = 2000, 1000, 400, 64


@dataclass(frozen=True, slots=True)
class Case:
    """A readable record: its question as data and, where the cloud answered, the cloud's answer."""

    record: OffloadRecord
    messages: Sequence[Any]
    tools: Sequence[Mapping[str, Any]]
    required: bool
    cloud: ParsedText | None

    @property
    def weight(self) -> float:
        """1 / propensity: how many requests a labelled record stands for."""
        return 1.0 / self.record.propensity

    def valid(self, text: str) -> bool:
        """Whether ``text`` may be served as the answer."""
        return check(parse(text), self.tools, self.required) is None

    def right(self, text: str) -> bool:
        """Whether ``text`` says what the cloud said."""
        return self.cloud is not None and same_answer(parse(text), self.cloud)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What one round works on; ``labels`` and ``anchors`` share no question with ``trials`` and ``drift``."""

    labels: Sequence[Sample]
    anchors: Sequence[Sample]
    trials: Sequence[Case]
    drift: Sequence[Sample]
    poisoned: Mapping[str, int]
    labelled: int


def lessons(records: Iterable[OffloadRecord], base_version: str, gate_share: float) -> Lessons:
    """Sort ``records`` (any order) into a round that starts from ``base_version``."""
    cases, poisoned = readable(records)
    train = [case for case in cases if not held_out(case.record.request_hash, gate_share)]
    gate = [case for case in cases if held_out(case.record.request_hash, gate_share)]
    return Lessons(
        labels=[_label(case) for case in train if case.cloud][-MAX_LABELS:],
        anchors=_kept(train, base_version)[-MAX_ANCHORS:],
        trials=[case for case in gate if _informative(case.record)][-MAX_TRIALS:],
        drift=_kept(gate, base_version)[-MAX_DRIFT:],
        poisoned=dict(poisoned),
        labelled=sum(case.cloud is not None for case in cases),
    )


def readable(records: Iterable[OffloadRecord]) -> tuple[list[Case], Counter[str]]:
    """The records that can be used, oldest first, and how many cannot, by reason."""
    poisoned: Counter[str] = Counter()
    cases = [case for r in sorted(records, key=lambda r: r.time_us) if (case := _case(r, poisoned))]
    return cases, poisoned


def held_out(request_hash: str, share: float) -> bool:
    """Whether a question belongs to the gate: a fixed pseudo-random ``share`` of all questions."""
    digest = hashlib.sha256(request_hash.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def as_sample(case: Case, answer: str = "", weight: float = 1.0, rejected: str = "") -> Sample:
    """The question of ``case`` with ``answer``."""
    return Sample(case.messages, case.tools, answer, weight, rejected)


def _case(record: OffloadRecord, poisoned: Counter[str]) -> Case | None:
    """The readable form of ``record``, or None after counting why not."""
    try:
        messages, tools, choice = (json.loads(t) for t in (record.messages, record.tools, record.tool_choice))
    except ValueError:
        messages = None
    if not isinstance(messages, list) or not all(map(_usable, tools or [])):
        poisoned["question unreadable"] += 1
        return None
    answer = None if record.cloud is None else parse(record.cloud)
    case = Case(record, messages, tools or [], choice == "required" or isinstance(choice, dict), answer)
    if answer and (why := _poison(case, answer)):
        poisoned[why] += 1
        return None
    return case


def _usable(tool: Any) -> bool:
    """Whether answers can be checked against ``tool``."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    return schema_error(function.get("parameters") or {}) is None


def _poison(case: Case, answer: ParsedText) -> str | None:
    record = case.record
    if len(record.cloud or "") > MAX_ANSWER_CHARS:
        return "answer too long"
    if answer.error:
        return "answer unparsable"
    if not LEAST_PROPENSITY <= record.propensity <= 1.0:
        return "label without propensity"
    return "answer fails the tools" if check(answer, case.tools, case.required) else None


def _informative(record: OffloadRecord) -> bool:
    """Whether the record's chance of a label was known and, where it was certain, there is one."""
    return record.labelled or 0.0 < record.propensity < 1.0


def _label(case: Case) -> Sample:
    """The cloud's answer in the edge's own spelling, so that only meaning is learnt."""
    answer = case.cloud
    assert answer is not None
    text = render(answer.calls) if answer.calls and not answer.content else str(case.record.cloud)
    return as_sample(case, text, min(case.weight, LABEL_WEIGHT_CAP), _corrected(case))


def _corrected(case: Case) -> str:
    """The draft that the cloud's answer corrects; one that was given up half-way is no answer."""
    record = case.record
    return "" if record.reason == Reason.DRAFT_ABANDONED or case.right(record.draft) else record.draft


def _kept(cases: Iterable[Case], base_version: str) -> list[Sample]:
    """The base model's own answers that were right, or good enough to be served: samples of pi_SFT."""
    return [
        as_sample(case, case.record.draft)
        for case in cases
        if case.record.draft_version == base_version and case.record.draft_error is None and case.record.draft
        if (case.right(case.record.draft) if case.cloud else case.record.score >= case.record.threshold)
    ]
