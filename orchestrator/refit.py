"""What new weights need besides their calibrator, fitted before they are published: their scorer, their threshold.

Both belong to one version of the weights, so a round fits what the site's configuration asks for anew and lays it into
the candidate's directory. Only held-out questions count, with the candidate's answers to them: on what it was trained
on it would look too sure. A reward model learns from one half of the questions; maps and the threshold, which must see
scores as they will be served, from the other. A log that says too little, or a fit that fails, is a reason in the
round's report, never the end of the round: the site then falls back (``orchestrator.rules``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.chat import ChatRequest
from actors.edge_node import DOWN_OVERHEAD_BYTES, UP_OVERHEAD_BYTES
from actors.engine import Completion
from actors.log_record import OffloadRecord
from actors.model_store import digests
from actors.scorer import Proposal, Scorer
from actors.scorers import Evidence, Labelled, fit_scorer, scorer_file
from actors.training import Draft
from orchestrator.config import Config
from orchestrator.lessons import Case, held_out
from orchestrator.own_threshold import FITTED, THRESHOLD_FILE, scores_id
from orchestrator.rules import next_scorer
from orchestrator.train_policy import LOG_STATES, Source, spread, train_policy
from orchestrator.verdict import Answered
from policies.errors import BadConfig, NetGPTError
from policies.funcdyn import values
from policies.outcomes import Outcomes
from policies.soft_gate import MIN_REQUESTS
from policies.toolcalls import parse
from policies.types import CloudWork, RoutingState

logger = logging.getLogger(__name__)

HELD_OUT = 0.5  # a calibration needs as many labels as the reward model
MIN_LABELLED = 60  # half of them calibrate: fewer would follow noise


@dataclass(frozen=True, slots=True)
class Known:
    """An answer of the weights in question to a question they were not trained on; ``right`` is a probability."""

    case: Case
    answer: Draft
    right: float
    weight: float

    @property
    def valid(self) -> bool:
        """Whether it may be served."""
        return self.case.valid(self.answer.text)

    @property
    def request(self) -> ChatRequest:
        """The question, as the edge was asked."""
        return ChatRequest(self.case.messages, self.case.tools)

    @property
    def proposal(self) -> Proposal:
        """The answer as a scorer sees it."""
        text, logprobs = self.answer.text, tuple(self.answer.logprobs)
        return Proposal(Completion(text, logprobs, "stop", len(logprobs)), parse(text), self.valid)


def refit(
    config: Config, directory: Path, rows: Sequence[Answered], records: Sequence[OffloadRecord]
) -> Mapping[str, str]:
    """Fit what ``config`` asks for and write it into the candidate's ``directory``, which has its calibrator already.

    Args:
        rows: the held-out questions with the candidate's answers.
        records: the log, for the states of links and prices that it has seen.

    Returns:
        What became of ``scorer`` and ``threshold``, in words; only what was asked for.
    """
    (directory / THRESHOLD_FILE).unlink(missing_ok=True)  # the base's own, where training copied it
    known = [Known(row.case, row.candidate, row.right, row.weight) for row in rows]
    share = config.learner.gate_share
    fits: dict[str, Callable[[], str]] = {}
    if config.policy.scorer != "logprob":
        fits["scorer"] = lambda: fit_for(config.policy.scorer, directory, known, share)
    if config.policy.kind in FITTED:
        fits["threshold"] = lambda: fit_threshold(config, directory, known, records, share)
    if not fits:
        return {}
    with _threads(config.learner.threads):
        return {name: tried(name, fit) for name, fit in fits.items()}


def tried(name: str, fit: Callable[[], str]) -> str:
    """What ``fit`` says, or why it failed, with the seconds it took."""
    began = time.monotonic()
    try:
        said = fit()
    except (NetGPTError, ValueError, OSError) as why:
        logger.warning("the %s could not be fitted for the candidate: %s", name, why)
        said = f"not fitted: {why}"
    return f"{said} ({time.monotonic() - began:.1f} s)"


def fit_for(kind: str, directory: Path, known: Sequence[Known], share: float = 1.0) -> str:
    """Write a scorer for the weights in ``directory``; says what it was fitted on.

    Args:
        known: of questions that lie in the first ``share`` of all by their hash.

    Raises:
        BadConfig: there is too little to learn from, or all drafts are right or all wrong.
        StoreError, EngineError: the weights in ``directory`` cannot be read.
    """
    usable = [one for one in known if one.case.cloud and one.valid]
    if len(usable) < MIN_LABELLED:
        raise BadConfig(
            f"{len(usable)} drafts of these weights have the cloud's answer, {MIN_LABELLED} are needed. "
            "Fix: serve on, or raise site.audit_rate"
        )
    _check_mixed(usable)
    first, second = ([_labelled(one) for one in half] for half in _halves(usable, share))
    evidence = Evidence(directory, first, second)
    if kind == "ensemble" and not scorer_file(directory, "preference").exists():
        _fit("preference", evidence)
    _fit(kind, evidence)
    return f"{kind}, fitted on {len(usable)} answers of the cloud"


def fit_threshold(
    config: Config, directory: Path, known: Sequence[Known], records: Sequence[OffloadRecord], share: float = 1.0
) -> str:
    """Write the configured kind of threshold for the scores of the version in ``directory``; says what it earns.

    Args:
        known: of questions that lie in the first ``share`` of all by their hash.

    Raises:
        BadConfig: there is too little to learn from.
        StoreError, EngineError: the version's scorer cannot be used.
        ValueError: a number in the log makes no sense.
    """
    scorer = next_scorer(config, directory)
    unseen = known if scorer.rater is None else _halves(known, share)[1]
    _check([one for one in unseen if one.case.cloud and one.valid])
    source = Source(_outcomes(config, scorer, unseen), _states(records), _scores(config, directory))
    kind = config.policy.kind
    assert kind in ("funcdyn", "policynet"), kind
    trained = train_policy(source, config, directory / THRESHOLD_FILE, kind=kind)
    _, closed, ours, _ = (f"{1e3 * figure:.1f}" for figure in trained.figures.values())
    return f"{kind}, fitted on {len(unseen)} answers, earns {ours} V per 1,000 held-out ones (closed form: {closed})"


def _fit(kind: str, evidence: Evidence) -> None:
    try:
        fit_scorer(kind, evidence)
    except ValueError as why:
        raise BadConfig(f"{kind} cannot be fitted: {why}. Fix: serve on until the log says more") from why


def _check(labelled: Sequence[Known]) -> None:
    """What is only believed of the others must not decide alone."""
    if len(labelled) < MIN_REQUESTS:
        raise BadConfig(
            f"a threshold is fitted on at least {MIN_REQUESTS} valid held-out drafts with the cloud's answer, got "
            f"{len(labelled)}. Fix: use a longer log, or raise site.audit_rate or learner.gate_share"
        )
    _check_mixed(labelled)


def _check_mixed(labelled: Sequence[Known]) -> None:
    right = sum(one.right for one in labelled)
    if right in (0, len(labelled)):
        raise BadConfig(
            f"all {len(labelled)} labelled drafts are {'right' if right else 'wrong'}: nothing tells good scores from "
            "bad. Fix: use a longer log"
        )


def _halves(known: Sequence[Known], share: float) -> tuple[list[Known], list[Known]]:
    """By question: what is learnt from, and what says how good that is."""
    second = [held_out(one.case.record.request_hash, share * HELD_OUT) for one in known]
    halves = ([one for one, mine in zip(known, second, strict=True) if mine == side] for side in (False, True))
    learnt, judged = halves
    return learnt, judged


def _labelled(one: Known) -> Labelled:
    return Labelled(one.request.prompt, [one.proposal], str(one.case.record.cloud), one.weight)


def _outcomes(config: Config, scorer: Scorer, known: Sequence[Known]) -> Outcomes:
    return Outcomes.of(
        [_score(scorer, one) for one in known],
        [one.right * one.valid for one in known],
        [config.policy.objective.cloud_accuracy] * len(known),
        [_work(one) for one in known],
        [one.weight for one in known],
    )


def _score(scorer: Scorer, one: Known) -> float:
    """As the node scores it."""
    if scorer.rater is not None:
        return float(scorer.rater.score(one.request.prompt, [one.proposal]).scores[0])
    return scorer.judge(one.request.question, len(one.case.tools), one.answer.logprobs, one.valid)


def _work(one: Known) -> CloudWork:
    """What the cloud would have to do, estimated from the draft as the node does."""
    record, text = one.case.record, one.answer.text
    up = len(record.messages.encode()) + len(record.tools.encode()) + UP_OVERHEAD_BYTES
    down = len(text.encode()) + DOWN_OVERHEAD_BYTES
    return CloudWork(up, down, record.prompt_tokens, len(one.answer.logprobs))


def _states(records: Sequence[OffloadRecord]) -> list[RoutingState]:
    """States that the log has seen, evenly; a record that makes no sense is left out."""
    seen = [RoutingState(record.link, record.prices) for record in spread(records, 4 * LOG_STATES)]
    return [state for state in seen if _sensible(state)]


def _sensible(state: RoutingState) -> bool:
    try:
        values(state)
    except ValueError:
        return False
    return True


def _scores(config: Config, directory: Path) -> str:
    return scores_id(digests(directory), config.policy.scorer)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """At most ``count`` threads of torch meanwhile: requests are being served."""
    import torch  # noqa: PLC0415  (a round that fits nothing here does not wait for this import)

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
