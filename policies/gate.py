"""The gate: whether a candidate may replace the model it came from, judged on held-out log records.

All conditions must hold, and the most telling one that fails is the reason: it learnt something, it does not ask for
help much more often, it does not say one thing all the time, its answers keep their form, it has not drifted beyond a
cap, and it wins success with a confidence interval above 0. Success is judged against the cloud's answers, which the
log holds for every offload but only for a share of the accepted drafts (the audits). The estimate is doubly robust:
every record has an imputed difference, and a labelled one corrects it with weight 1 / propensity. Where both models
give the same answer the difference is 0 without any label, so the few audits, whose weights are large, add noise only
where the candidate really answers otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from policies.fitting import BoolArray, IntArray
from policies.score import FloatArray

RESAMPLES = 2000  # the 5 % quantile of the bootstrap then has an error of about 0.5 % in level


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a candidate must show.

    Args:
        confidence: level of the two-sided bootstrap interval on the success difference.
        drift_cap_nats: largest KL(pi_SFT || pi) per token on held-out drafts of the parent.
        validity_slack: how much the share of valid answers may fall (half a point is less than one record in 200).
        help_slack: how much the share of requests for help may rise: each is an offload that no threshold can stop.
        sameness_slack: how much the share of its commonest answer may be above the parent's and the cloud's. Wide:
            a model that has collapsed says one thing nearly always.
        min_labelled: labelled records below which nothing can be judged.
        weight_cap: largest 1 / propensity that is used; imputation covers what the cap leaves out.
        seed: of the bootstrap.
    """

    confidence: float = 0.9
    drift_cap_nats: float = 2.0
    validity_slack: float = 0.005
    help_slack: float = 0.1
    sameness_slack: float = 0.3
    min_labelled: int = 10
    weight_cap: float = 20.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers to the held-out records; every array has shape [n].

    Args:
        valid: whether its form is right; one that asks for help is.
        help: whether it asks for help.
        meaning: equal numbers say the same; below 0 it says nothing that can be read.
        flaw: the commonest reason why answers are not valid.
    """

    valid: BoolArray
    help: BoolArray
    meaning: IntArray
    flaw: str = ""

    @property
    def sameness(self) -> float:
        """Share of the commonest answer that can be read."""
        return commonest(self.meaning[self.meaning >= 0], len(self.meaning))


@dataclass(frozen=True, slots=True)
class Trial:
    """Held-out records answered by both models; every array has shape [n].

    ``difference`` is candidate correct - base correct (only read where ``labelled``); ``imputed`` is what
    is assumed for it without a label, in [-1, 1]. ``cloud`` [m] are the meanings of the cloud's answers.
    ``drift_nats`` is a mean over tokens.
    """

    difference: FloatArray
    imputed: FloatArray
    labelled: BoolArray
    propensity: FloatArray
    base: Answers
    candidate: Answers
    cloud: IntArray
    drift_nats: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict, one sentence of why, and the figures behind it."""

    passed: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)


def judge(trial: Trial, rules: GateRules) -> GateResult:
    """Apply ``rules``; a trial that cannot be judged does not pass."""
    labelled = int(trial.labelled.sum())
    if labelled < rules.min_labelled:
        reason = f"only {labelled} labelled records held out, {rules.min_labelled} are needed"
        return GateResult(False, reason, {"labelled": float(labelled)})
    figures = _figures(trial, rules)
    why_not = next(_objections(figures, trial.candidate.flaw, rules), None)
    return GateResult(why_not is None, why_not or _praise(figures), figures)


def gains(trial: Trial, weight_cap: float) -> FloatArray:
    """Doubly robust estimate of each record's success difference, shape [n]; their mean estimates the gain.

    Raises:
        ValueError: a labelled record has propensity 0, or an array has another length.
    """
    arrays = (trial.difference, trial.imputed, trial.labelled, trial.propensity)
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"arrays of one length are needed, got {[len(array) for array in arrays]}")
    known = trial.propensity[trial.labelled]
    if not (known > 0).all():
        raise ValueError("a labelled record must have a propensity above 0")
    result = trial.imputed.astype(np.float64)
    surprise = trial.difference[trial.labelled] - result[trial.labelled]
    result[trial.labelled] += np.minimum(1.0 / known, weight_cap) * surprise
    return result


def interval(values: FloatArray, confidence: float, seed: int) -> tuple[float, float]:
    """Two-sided bootstrap percentile interval of the mean of ``values`` [n]."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values[drawn].mean(axis=1), (tail, 1.0 - tail))
    return float(low), float(high)


def commonest(meanings: IntArray, count: int) -> float:
    """Share of ``count`` that the commonest of ``meanings`` has; 0 without any."""
    return float(np.unique(meanings, return_counts=True)[1].max()) / count if len(meanings) else 0.0


def _figures(trial: Trial, rules: GateRules) -> dict[str, float]:
    values, base, candidate = gains(trial, rules.weight_cap), trial.base, trial.candidate
    low, high = interval(values, rules.confidence, rules.seed)
    return {
        "records": float(len(values)),
        "labelled": float(trial.labelled.sum()),
        "gain": float(values.mean()),
        "gain_low": low,
        "gain_high": high,
        "changed": float((base.meaning != candidate.meaning).mean()),
        "base_valid": float(base.valid.mean()),
        "candidate_valid": float(candidate.valid.mean()),
        "base_help": float(base.help.mean()),
        "candidate_help": float(candidate.help.mean()),
        "base_sameness": base.sameness,
        "candidate_sameness": candidate.sameness,
        "cloud_sameness": commonest(trial.cloud, len(trial.cloud)),
        "drift_nats": trial.drift_nats,
    }


def _objections(figures: Mapping[str, float], flaw: str, rules: GateRules) -> Iterator[str]:
    """Why the candidate may not pass, the most telling first."""
    if not figures["changed"]:
        yield f"nothing was learnt: it answers all {figures['records']:.0f} held-out questions as its parent does"
    asks, asked = figures["candidate_help"], figures["base_help"]
    if asks > (allowed := asked + rules.help_slack):
        yield f"it asks for help in {asks:.0%} of requests, its parent in {asked:.0%}; {allowed:.0%} are allowed"
    same, before, cloud = (figures[f"{name}_sameness"] for name in ("candidate", "base", "cloud"))
    if same > max(before, cloud) + rules.sameness_slack:
        usual = f"the commonest of its parent is {before:.0%}, of the cloud {cloud:.0%}"
        yield f"collapsed: {same:.0%} of its answers are one and the same, {usual}"
    before, after = figures["base_valid"], figures["candidate_valid"]
    if after < before - rules.validity_slack:
        yield f"validity falls from {before:.3f} to {after:.3f}" + (f", mostly: {flaw}" if flaw else "")
    if not figures["drift_nats"] <= rules.drift_cap_nats:
        yield f"drift of {figures['drift_nats']:.3f} nats per token is above {rules.drift_cap_nats}"
    if not figures["gain_low"] > 0:
        yield f"success gain {_gain(figures)} is not surely above 0"


def _praise(figures: Mapping[str, float]) -> str:
    validity, drift = figures["candidate_valid"], figures["drift_nats"]
    return f"success gain {_gain(figures)}, validity {validity:.3f}, drift {drift:.3f} nats per token"


def _gain(figures: Mapping[str, float]) -> str:
    return f"{figures['gain']:+.3f} [{figures['gain_low']:+.3f}, {figures['gain_high']:+.3f}]"
