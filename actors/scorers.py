"""Scorers by name: P(draft correct) for each of a request's drafts, and which of them to keep.

``SCORERS`` is the registry, ``build_scorer`` the one way in: ``logprob`` (the draft's own log-probabilities),
``preference`` (a reward head on the edge model's hidden states), ``agreement`` (the vote of K drafts), ``ensemble``
(logistic regression over the raw scores of the three). The validity gate comes first: an invalid draft scores 0. A
scorer belongs to one version of the weights; its file lies beside them and names their checksum. ``fit_scorer`` writes
it. No Ray, no clock.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from actors.chat import question
from actors.engine import Completion, Prompt
from actors.hidden_states import READS, HiddenStates
from actors.scorer import Proposal, Scored, Scorer
from policies.agreement import vote
from policies.calibration import Calibrator
from policies.errors import BadConfig, StoreError
from policies.fitting import BoolArray
from policies.preference import Answer, Head, Judged, fit_head, preference_pairs
from policies.score import FloatArray
from policies.score_maps import Isotonic, Platt, ScoreMap, map_from_json
from policies.toolcalls import parse, same_answer

T = TypeVar("T")

MEMBERS = ("logprob", "preference", "agreement")
HIDDEN = 16  # units of the reward head
MANY = 500  # labels from which a map may take any rising shape
UNKNOWN = -math.inf  # the raw score of a draft about which a scorer knows nothing; its probability is 0


@dataclass(frozen=True, slots=True)
class Labelled:
    """A request, its drafts and the cloud's answer as text; ``weight`` is 1 / propensity."""

    prompt: Prompt
    proposals: Sequence[Proposal]
    cloud: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a scorer of the weights in ``directory`` is fitted on.

    Args:
        training: what the reward head of ``preference`` learns from; the others do not use it.
        held_out: what maps and the ensemble are fitted on: drafts that the head has not seen.
        prior: the parent version's map, towards which few labels are shrunk; for raw scores on the same scale.
    """

    directory: Path
    training: Sequence[Labelled]
    held_out: Sequence[Labelled]
    prior: ScoreMap | None = None


class RawScorer(Protocol):
    """A number for each draft that rises with its quality, on no scale."""

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:
        """Shape [K]; ``UNKNOWN`` where nothing can be said. Only valid drafts need a number."""
        ...


@dataclass(frozen=True, slots=True)
class DraftScorer:
    """Gate, raw score, map."""

    kind: str
    model: RawScorer
    map: ScoreMap

    def score(self, prompt: Prompt, proposals: Sequence[Proposal]) -> Scored:
        """Score the drafts of one request; there must be one at least."""
        raw = self.model.raw(prompt, proposals)
        passed = np.array([one.valid for one in proposals], dtype=bool) & (raw > UNKNOWN)
        scores = np.where(passed, self.map.predict(np.where(passed, raw, 0.0)), 0.0)
        # By the raw score, which the map never turns round: it still tells drafts apart where the map is flat.
        best = max(range(len(proposals)), key=lambda i: (proposals[i].valid, passed[i], raw[i], -i))
        return Scored(scores, best)


@dataclass(frozen=True, slots=True)
class LogprobScorer:
    """Log-odds of the version's own calibrated score."""

    scorer: Scorer

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:
        """See ``RawScorer``; a draft without log-probabilities is ``UNKNOWN``."""
        expected = self.scorer.expected(question(prompt.messages), len(prompt.tools))
        return np.array([self._one(proposal.completion, expected) for proposal in proposals], dtype=np.float64)

    def _one(self, completion: Completion, expected: float | None) -> float:
        if not completion.logprobs:
            return UNKNOWN
        p = self.scorer.score(completion.logprobs, True, expected)
        return math.log(p) - math.log1p(-p)


@dataclass(frozen=True, slots=True)
class AgreementScorer:
    """Votes for the draft's meaning among the request's own drafts."""

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:  # noqa: ARG002
        """See ``RawScorer``."""
        return vote([one.parsed for one in proposals], [one.valid for one in proposals]).raw_scores()


@dataclass(frozen=True, slots=True)
class PreferenceScorer:
    """Reward of the draft's hidden states."""

    states: HiddenStates
    head: Head

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:
        """See ``RawScorer``; an invalid draft is ``UNKNOWN``, the gate spares its forward pass."""
        raw = np.full(len(proposals), UNKNOWN)
        valid = [i for i, one in enumerate(proposals) if one.valid]
        if valid:
            raw[valid] = self.head.reward(self.states.pooled(prompt, [proposals[i].completion.text for i in valid]))
        return raw


@dataclass(frozen=True, slots=True)
class EnsembleScorer:
    """Log-odds of a logistic regression over the members' raw scores, none of which may count against a draft."""

    members: Sequence[RawScorer]
    weights: Calibrator

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:
        """See ``RawScorer``; ``UNKNOWN`` to one member is ``UNKNOWN``."""
        columns = stacked(self.members, prompt, proposals)
        known = np.asarray(np.isfinite(columns).all(axis=1))
        p = self.weights.predict(np.where(known[:, None], columns, 0.0))
        return np.where(known, np.log(p) - np.log1p(-p), UNKNOWN)


def stacked(members: Sequence[RawScorer], prompt: Prompt, proposals: Sequence[Proposal]) -> FloatArray:
    """Raw scores of several scorers: shape [K, members]."""
    return np.stack([member.raw(prompt, proposals) for member in members], axis=1)


def build_scorer(kind: str, directory: Path) -> DraftScorer:
    """The scorer named ``kind`` of the model version in ``directory``.

    Raises:
        BadConfig: there is no such kind.
        StoreError: its file is missing or broken, or was fitted on other weights or other features.
        EngineError: the model cannot be loaded for its hidden states.
    """
    if kind not in SCORERS:
        raise BadConfig(f"scorer kind {kind!r} is unknown: use one of {', '.join(sorted(SCORERS))}")
    return SCORERS[kind](directory, weights_id(directory))


def fit_scorer(kind: str, given: Evidence) -> None:
    """Fit ``kind`` for the weights in ``given.directory`` and write its file there, whole or not at all.

    Raises:
        BadConfig: ``kind`` is not fitted here (``logprob`` has ``calibrator.json``).
        ValueError: nothing to learn from.
    """
    if kind not in FITS:
        raise BadConfig(f"scorer kind {kind!r} is not fitted here: use one of {', '.join(sorted(FITS))}")
    path = scorer_file(given.directory, kind)
    data = {"scorer": kind, "weights": weights_id(given.directory), **FITS[kind](given)}
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(data), encoding="utf-8")
    aside.rename(path)


def scorer_file(directory: Path, kind: str) -> Path:
    """Where the scorer's file lies: beside ``calibrator.json``."""
    return directory / f"scorer_{kind}.json"


def weights_id(directory: Path) -> str:
    """SHA-256 of the safetensors files in ``directory``, in order of their names."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _logprob(directory: Path, weights: str) -> DraftScorer:  # noqa: ARG001  (calibrator.json names features only)
    scorer = Scorer.load(directory)
    return DraftScorer("logprob", LogprobScorer(scorer), Platt(0.0, 1.0, scorer.calibrator.samples))


def _agreement(directory: Path, weights: str) -> DraftScorer:
    return DraftScorer("agreement", AgreementScorer(), _read(directory, "agreement", weights, _map))


def _preference(directory: Path, weights: str) -> DraftScorer:
    head, fitted = _read(directory, "preference", weights, lambda data: (_head(data), _map(data)))
    states = HiddenStates(directory)
    if len(head.center) != 2 * states.width:
        path = scorer_file(directory, "preference")
        raise StoreError(f"{path}: its head reads {len(head.center)} numbers, the model gives {2 * states.width}")
    return DraftScorer("preference", PreferenceScorer(states, head), fitted)


def _ensemble(directory: Path, weights: str) -> DraftScorer:
    blend = _read(directory, "ensemble", weights, lambda data: Calibrator.from_json(data["blend"], MEMBERS))
    return DraftScorer("ensemble", EnsembleScorer(_members(directory, weights), blend), Platt(0.0, 1.0, blend.samples))


def _members(directory: Path, weights: str) -> tuple[RawScorer, ...]:
    """In the order of ``MEMBERS``; agreement's raw score needs no file."""
    return _logprob(directory, weights).model, _preference(directory, weights).model, AgreementScorer()


SCORERS: dict[str, Callable[[Path, str], DraftScorer]] = {
    "logprob": _logprob,
    "preference": _preference,
    "agreement": _agreement,
    "ensemble": _ensemble,
}


def _fit_preference(given: Evidence) -> dict[str, Any]:
    states = HiddenStates(given.directory)
    owners = [(one, proposal) for one in given.training for proposal in one.proposals]
    judged = [Judged(p.completion.text, one.cloud, one.prompt.tools, one.weight) for one, p in owners]
    pairs = preference_pairs(judged)
    if not pairs:
        raise ValueError(f"{len(judged)} judged drafts give no pair to compare")
    answers = dict.fromkeys(side for pair in pairs for side in (pair.better, pair.worse))
    pooled, places = _pooled(states, [one.prompt for one, _ in owners], answers)
    better = np.array([places[pair.better] for pair in pairs])
    worse = np.array([places[pair.worse] for pair in pairs])
    head = fit_head(pooled, better, worse, np.array([pair.weight for pair in pairs]), HIDDEN)
    return {"reads": READS, "head": head.to_dict(), "map": _fit_map(PreferenceScorer(states, head), given).to_json()}


def _pooled(
    states: HiddenStates, prompts: Sequence[Prompt], answers: Iterable[Answer]
) -> tuple[FloatArray, dict[Answer, int]]:
    """Pooled states of all answers, one forward pass a request, and the row of each."""
    texts: dict[int, list[Answer]] = {}
    for answer in answers:
        texts.setdefault(answer.request, []).append(answer)
    rows = [states.pooled(prompts[i], [answer.text for answer in some]) for i, some in texts.items()]
    return np.concatenate(rows), {answer: n for n, answer in enumerate(chain.from_iterable(texts.values()))}


def _fit_agreement(given: Evidence) -> dict[str, Any]:
    return {"map": _fit_map(AgreementScorer(), given).to_json()}


def _fit_ensemble(given: Evidence) -> dict[str, Any]:
    members = _members(given.directory, weights_id(given.directory))
    table = _table(lambda one: stacked(members, one.prompt, one.proposals), given.held_out)
    return {"blend": Calibrator.fit(*table, rising=(True,) * len(MEMBERS)).to_json(MEMBERS)}


FITS: dict[str, Callable[[Evidence], dict[str, Any]]] = {
    "preference": _fit_preference,
    "agreement": _fit_agreement,
    "ensemble": _fit_ensemble,
}


def _fit_map(model: RawScorer, given: Evidence) -> ScoreMap:
    """Isotonic from ``MANY`` labels on; of fewer, a shape follows noise and two numbers do not."""
    rows, right, weights = _table(lambda one: model.raw(one.prompt, one.proposals)[:, None], given.held_out)
    if len(right) >= MANY:
        return Isotonic.fit(rows[:, 0], right, weights, given.prior)
    return Platt.fit(rows[:, 0], right, weights, given.prior if isinstance(given.prior, Platt) else None)


def _table(
    raw: Callable[[Labelled], FloatArray], labelled: Sequence[Labelled]
) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Raw scores [n, d], right or wrong [n] and weights [n] of all drafts that pass the gate and can be scored."""
    rows, right, weights = [], [], []
    for one in labelled:
        cloud = parse(one.cloud)
        for proposal, row in zip(one.proposals, raw(one), strict=True):
            if proposal.valid and np.isfinite(row).all():
                rows.append(row)
                right.append(same_answer(proposal.parsed, cloud))
                weights.append(one.weight)
    if not rows:
        raise ValueError(f"none of {len(labelled)} held-out requests has a valid draft that can be scored")
    return np.array(rows), np.array(right), np.array(weights, dtype=np.float64)


def _head(data: Mapping[str, Any]) -> Head:
    """Its numbers would fit other states of the same width, and mean nothing."""
    if data.get("reads") != READS:
        raise ValueError(f"its head reads {data.get('reads')!r}, the program gives {READS!r}; fit it again")
    return Head.from_dict(data["head"])


def _map(data: Mapping[str, Any]) -> ScoreMap:
    return map_from_json(data["map"])


def _read(directory: Path, kind: str, weights: str, build: Callable[[Mapping[str, Any]], T]) -> T:
    path = scorer_file(directory, kind)
    try:
        data = dict(json.loads(path.read_text(encoding="utf-8")))
        named, fitted_on, made = data["scorer"], data["weights"], build(data)
    except OSError as why:
        raise StoreError(f"{path}: cannot be read ({why.strerror or why})") from why
    except (ValueError, LookupError, TypeError) as why:
        raise StoreError(f"{path}: not a {kind} scorer: {why}") from why
    if named != kind:
        raise StoreError(f"{path}: it is a scorer of kind {named!r}, not {kind!r}")
    if fitted_on != weights:
        raise StoreError(
            f"{path}: it was fitted on other weights ({fitted_on[:12]}, here {weights[:12]}); fit it again"
        )
    return made
