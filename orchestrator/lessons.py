"""From the offload log to what a round works on: screening, the split, what to learn, what to keep.

``lessons`` reads records only; it never sees a task's ground truth, and the cloud's answer is the label. A question is
readable if the endpoint would take it. An answer that serving would not serve is *poisoned*: skipped and counted. The
split into training and gate is by the hash of the question, so one that was asked twice never lies on both sides.
Clients' verdicts teach: a correction goes before the cloud's word, an answer that was right is a label, one that was
wrong is none. They do not judge: nobody knows how probable a verdict was, so the gate leaves them aside. Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.chat import ChatRequest
from actors.engine import Message, Tool
from actors.feedback_log import Verdict
from actors.log_record import OffloadRecord
from actors.training import Sample
from orchestrator.endpoint.chat_schema import read_body, to_request
from orchestrator.endpoint.json_body import read_json
from orchestrator.screening import LEAST_PROPENSITY
from policies.errors import BadRequest
from policies.help_marker import asks_for_help
from policies.replay_weights import ReplayRules, replay_weights
from policies.toolcalls import parse, render, same_answer
from policies.types import ParsedText, Reason

MAX_ANSWER_CHARS = 8000  # ten times a long tool call; a model that loops writes more
MAX_QUESTION_CHARS = 100_000  # three times what fits the context of a training round; reading more takes seconds
LABEL_WEIGHT_CAP = 4.0  # an audit stands for 1 / rate accepted drafts; more weight on one record only adds noise
# Newest first when there are more: what bounds a round's time, each about a minute at most on one core.
MAX_LABELS, MAX_QUESTIONS, MAX_TRIALS, MAX_DRIFT = 2000, 1000, 400, 64
ALIKE = ReplayRules()
NO_VERDICTS: Mapping[str, Verdict] = {}


@dataclass(frozen=True, slots=True)
class Case:
    """A readable record: its question as it was asked and, where the cloud answered, the cloud's answer.

    An answer that asks for help has no flaw of form, but may not be served and is never right, whatever else it says.
    """

    record: OffloadRecord
    request: ChatRequest
    cloud: ParsedText | None

    @property
    def messages(self) -> Sequence[Message]:
        """What was said."""
        return self.request.messages

    @property
    def tools(self) -> Sequence[Tool]:
        """What the edge model got to see of the tools."""
        return self.request.shown_tools

    @property
    def weight(self) -> float:
        """1 / propensity: how many requests a labelled record stands for."""
        return 1.0 / self.record.propensity

    def flaw(self, text: str) -> str | None:
        """What is wrong with the form of ``text``, or None."""
        if len(text) > MAX_ANSWER_CHARS:
            return f"it is longer than {MAX_ANSWER_CHARS} characters"
        return None if asks_for_help(text) else self.request.problem(parse(text))

    def valid(self, text: str) -> bool:
        """Whether ``text`` may be served as the answer."""
        return self.flaw(text) is None and not asks_for_help(text)

    def right(self, text: str) -> bool:
        """Whether ``text`` says what the cloud said."""
        if self.cloud is None or len(text) > MAX_ANSWER_CHARS or asks_for_help(text):
            return False
        return same_answer(parse(text), self.cloud)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What one round works on; ``labels`` and ``questions`` share no question with ``trials`` and ``drift``."""

    labels: Sequence[Sample]
    questions: Sequence[Sample]
    trials: Sequence[Case]
    drift: Sequence[Sample]
    poisoned: Mapping[str, int]
    labelled: int


def lessons(
    records: Iterable[OffloadRecord],
    base_version: str,
    gate_share: float,
    replay: ReplayRules = ALIKE,
    verdicts: Mapping[str, Verdict] = NO_VERDICTS,
) -> Lessons:
    """Sort ``records`` (any order) into a round that starts from ``base_version``; ``verdicts`` by request id."""
    cases, poisoned = readable(records)
    train = _told([case for case in cases if not held_out(case.record.request_hash, gate_share)], verdicts, poisoned)
    gate = [case for case in cases if held_out(case.record.request_hash, gate_share)]
    return Lessons(
        labels=_labels([case for case in train if case.cloud][-MAX_LABELS:], replay),
        questions=[as_sample(case, str(case.record.cloud) if case.cloud else "") for case in train[-MAX_QUESTIONS:]],
        trials=[case for case in gate if _informative(case.record)][-MAX_TRIALS:],
        drift=_kept(gate, base_version)[-MAX_DRIFT:],
        poisoned=dict(poisoned),
        labelled=sum(case.cloud is not None for case in [*train, *gate]),
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


def labelled_case(case: Case, cloud: str) -> Case | None:
    """``case`` with the cloud's answer, or None where nothing may be learnt from it."""
    return None if _poison(case.record, cloud, case.request) else replace(case, cloud=parse(cloud))


def _told(cases: Iterable[Case], verdicts: Mapping[str, Verdict], poisoned: Counter[str]) -> list[Case]:
    """``cases`` with what clients said of their answers, without those of which they said that they were wrong."""
    if not verdicts:
        return list(cases)
    told = ((case, verdicts.get(case.record.request_id)) for case in cases)
    return [taught for case, verdict in told if (taught := _taught(case, verdict, poisoned))]


def _taught(case: Case, verdict: Verdict | None, poisoned: Counter[str]) -> Case | None:
    if verdict is None:
        return case
    answer = verdict.answer or (case.record.answer if verdict.right else None)
    if answer is None:
        poisoned["answer was wrong, a client says"] += 1
        return None
    record = replace(case.record, cloud=answer, propensity=1.0)
    if why := _poison(record, answer, case.request):
        poisoned[f"feedback: {why}"] += 1
        return case
    return replace(case, record=record, cloud=parse(answer))


def _case(record: OffloadRecord, poisoned: Counter[str]) -> Case | None:
    """The readable form of ``record``, or None after counting why not."""
    if len(record.messages) + len(record.tools) > MAX_QUESTION_CHARS:
        poisoned["question too long"] += 1
        return None
    asked = f'{{"model":"","messages":{record.messages},"tools":{record.tools},"tool_choice":{record.tool_choice}}}'
    try:
        data = read_json(asked.encode())
        request = to_request(read_body(data), data, record.request_id)
    except BadRequest:
        poisoned["question unreadable"] += 1
        return None
    if record.cloud is None:
        return Case(record, request, None)
    if why := _poison(record, record.cloud, request):
        poisoned[why] += 1
        return None
    return Case(record, request, parse(record.cloud))


def _poison(record: OffloadRecord, cloud: str, request: ChatRequest) -> str | None:
    """Why nothing may be learnt from the cloud's answer, or None."""
    if len(cloud) > MAX_ANSWER_CHARS:
        return "answer too long"
    if (answer := parse(cloud)).error:
        return "answer unparsable"
    if asks_for_help(cloud):
        return "answer asks for help"
    if not LEAST_PROPENSITY <= record.propensity <= 1.0:
        return "label without propensity"
    return "answer fails the tools" if request.problem(answer) else None


def _informative(record: OffloadRecord) -> bool:
    """Whether the record's chance of a label was known and, where it was certain, there is one."""
    return record.labelled or 0.0 < record.propensity < 1.0


def _labels(cases: Sequence[Case], replay: ReplayRules) -> list[Sample]:
    """What ``cases``, oldest first, teach."""
    stands_for = np.array([min(case.weight, LABEL_WEIGHT_CAP) for case in cases], dtype=np.float64)
    known = np.array([case.record.draft_error is None and case.right(case.record.draft) for case in cases], dtype=bool)
    weights = replay_weights(stands_for, known, replay)
    return [_label(case, weight) for case, weight in zip(cases, weights.tolist(), strict=True)]


def _label(case: Case, weight: float) -> Sample:
    """The cloud's answer in the edge's own spelling, so that only meaning is learnt."""
    answer = case.cloud
    assert answer is not None
    text = render(answer.calls) if answer.calls and not answer.content else str(case.record.cloud)
    return as_sample(case, text, weight, _corrected(case))


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
