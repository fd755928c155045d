"""The gate: whether a candidate may replace the model it came from, judged on held-out log records.

Three conditions, all needed: it does not lose validity, it wins success with a confidence interval above 0, and it
has not drifted beyond a cap. Success is judged against the cloud's answers, which the log holds for every offload but
only for a share of the accepted drafts (the audits). The estimate is doubly robust: every record has an imputed
difference, and a labelled one corrects it with weight 1 / propensity. Where both models give the same answer the
difference is 0 without any label, so the few audits, whose weights are large, add noise only where the candidate
really answers otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from policies.fitting import BoolArray
from policies.score import FloatArray

RESAMPLES = 2000  # the 5 % quantile of the bootstrap then has an error of about 0.5 % in level


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a candidate must show.

    Args:
        confidence: level of the two-sided bootstrap interval on the success difference.
        drift_cap_nats: largest KL(pi_SFT || pi) per token on held-out drafts of the parent.
        validity_slack: how much the share of valid answers may fall (half a point is less than one record in 200).
        min_labelled: labelled records below which nothing can be judged.
        weight_cap: largest 1 / propensity that is used; imputation covers what the cap leaves out.
        seed: of the bootstrap.
    """

    confidence: float = 0.9
    drift_cap_nats: float = 2.0
    validity_slack: float = 0.005
    min_labelled: int = 10
    weight_cap: float = 20.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """Held-out records answered by both models; every array has shape [n].

    ``difference`` is candidate correct - base correct (only read where ``labelled``); ``imputed`` is what
    is assumed for it without a label, in [-1, 1]. ``drift_nats`` is a mean over tokens.
    """

    difference: FloatArray
    imputed: FloatArray
    labelled: BoolArray
    propensity: FloatArray
    base_valid: BoolArray
    candidate_valid: BoolArray
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
    return GateResult(*_verdict(figures, rules), figures)


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


def _figures(trial: Trial, rules: GateRules) -> dict[str, float]:
    values = gains(trial, rules.weight_cap)
    low, high = interval(values, rules.confidence, rules.seed)
    return {
        "records": float(len(values)),
        "labelled": float(trial.labelled.sum()),
        "gain": float(values.mean()),
        "gain_low": low,
        "gain_high": high,
        "base_valid": float(trial.base_valid.mean()),
        "candidate_valid": float(trial.candidate_valid.mean()),
        "drift_nats": trial.drift_nats,
    }


def _verdict(figures: Mapping[str, float], rules: GateRules) -> tuple[bool, str]:
    before, after = figures["base_valid"], figures["candidate_valid"]
    if after < before - rules.validity_slack:
        return False, f"validity falls from {before:.3f} to {after:.3f}"
    if not figures["drift_nats"] <= rules.drift_cap_nats:
        return False, f"drift of {figures['drift_nats']:.3f} nats per token is above {rules.drift_cap_nats}"
    gain = f"{figures['gain']:+.3f} [{figures['gain_low']:+.3f}, {figures['gain_high']:+.3f}]"
    if not figures["gain_low"] > 0:
        return False, f"success gain {gain} is not surely above 0"
    return True, f"success gain {gain}, validity {after:.3f}, drift {figures['drift_nats']:.3f} nats per token"
