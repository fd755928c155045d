"""What an answer is worth to the policy step that learns from it.

``gated_reward`` is for tool calls with a reference, R = w_v V + V (w_t [same tools] + w_a argF1 + w_r preference) -
w_l length (ours). Validity V multiplies all that can be earned, and the penalty for length stays below w_v, so an
invalid answer never earns as much as a valid one, whatever the other terms say. ``hierarchical_reward`` is for what a
verifier judges where the model may ask the cloud for help (arXiv 2509.24050: v1 eq. 5; v3 eq. 18 has alpha_f = 0):
right alone beats right with help, which beats wrong but well formed (``Hierarchy`` also allows the ends, where two
of them are equal). Rewards have no unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from policies.checks import nonnegative, probability
from policies.toolcalls import canonical
from policies.types import ToolCall


@dataclass(frozen=True, slots=True)
class CallWeights:
    """Weights of ``gated_reward``, each >= 0; the starting values are ours and have not been tuned.

    Raises:
        ValueError: a weight is negative or not finite, or ``length`` is not below ``valid``.
    """

    valid: float = 0.2
    tools: float = 0.3
    arguments: float = 0.3
    preference: float = 0.2
    length: float = 0.1

    def __post_init__(self) -> None:
        nonnegative(**asdict(self))
        if not self.length < self.valid:
            raise ValueError(
                f"length must be below valid, or a long valid answer earns less than an invalid one: "
                f"got length {self.length!r} and valid {self.valid!r}"
            )


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Rewards of a right answer alone (alpha_a), of one with the cloud's help (alpha_c), and of good form (alpha_f).

    The paper's own values of alpha_c / alpha_a lie from 0.2 to 0.6; the useful window is narrow and differs by model.
    Too low and the model never asks, too high and it always does (its figures 7 and 8). The ends of the range may be
    measured: at alpha_c = alpha_f asking earns no more than a well-formed wrong answer, so nothing speaks for it; at
    alpha_c = alpha_a a helped answer is as good as an own one, so nothing speaks against it.

    Raises:
        ValueError: not alpha_a >= alpha_c >= alpha_f >= 0, all finite, or alpha_a is not above alpha_f.
    """

    alpha_a: float = 1.0
    alpha_c: float = 0.25
    alpha_f: float = 0.0

    def __post_init__(self) -> None:
        nonnegative(**asdict(self))
        if not self.alpha_a >= self.alpha_c >= self.alpha_f or self.alpha_a == self.alpha_f:
            raise ValueError(
                f"alpha_a >= alpha_c >= alpha_f and alpha_a > alpha_f are needed (alone beats helped beats "
                f"well-formed), got {self.alpha_a!r}, {self.alpha_c!r} and {self.alpha_f!r}"
            )


def gated_reward(
    valid: bool,
    calls: Sequence[ToolCall],
    reference: Sequence[ToolCall],
    weights: CallWeights,
    preference: float = 0.0,
    length: float = 0.0,
) -> float:
    """Reward in [-weights.length, weights.valid + weights.tools + weights.arguments + weights.preference].

    Args:
        valid: whether the answer may be served (``toolcalls.check`` finds nothing).
        calls: what the answer calls; not read when it is invalid. Answers in prose have none, and two of them differ
            by ``preference`` only.
        reference: what it should call.
        preference: a calibrated preference for the answer, in [0, 1].
        length: how much too long it is, in [0, 1] (``length_excess``).

    Raises:
        ValueError: ``preference`` or ``length`` lies outside [0, 1].
    """
    probability(preference=preference, length=length)
    if not valid:
        return -weights.length * length
    earned = weights.valid + weights.tools * same_tools(calls, reference) + weights.preference * preference
    return earned + weights.arguments * argument_f1(calls, reference) - weights.length * length


def hierarchical_reward(correct: bool, assisted: bool, formatted: bool, hierarchy: Hierarchy) -> float:
    """Reward of a whole response, the cloud's part included, in [0, alpha_a + alpha_f].

    Args:
        correct: whether the response, with the cloud's part where there is one, holds the right answer.
        assisted: whether it asked for help.
        formatted: whether the model's own answer keeps to the asked-for form; counts only without help.
    """
    if assisted:
        return hierarchy.alpha_c * correct
    return hierarchy.alpha_a * correct + hierarchy.alpha_f * formatted


def length_excess(tokens: int, free: int, limit: int) -> float:
    """How far an answer of ``tokens`` is on the way from ``free`` to ``limit`` tokens, in [0, 1].

    Raises:
        ValueError: not 0 <= free < limit, or ``tokens`` is negative.
    """
    if not 0 <= free < limit or tokens < 0:
        raise ValueError(f"0 <= free < limit and tokens >= 0 are needed, got {free}, {limit} and {tokens}")
    return min(1.0, max(0, tokens - free) / (limit - free))


def same_tools(calls: Sequence[ToolCall], reference: Sequence[ToolCall]) -> bool:
    """Whether both call the same tools equally often, in any order."""
    return Counter(call.name for call in calls) == Counter(call.name for call in reference)


def argument_f1(calls: Sequence[ToolCall], reference: Sequence[ToolCall]) -> float:
    """Harmonic mean of precision and recall over arguments, in [0, 1].

    An argument is right when the call's partner in the reference has the same name and an equal value (5 and 5.0 are
    equal; a nested value counts as a whole). Every call has at most one partner, of the same tool, chosen so that most
    arguments are right: the order of calls does not matter, and a call made twice earns once. Without any argument on
    either side it is 1 for the same tools and 0 for others. Together with ``same_tools`` it is 1 exactly for answers
    that mean the same.

    Raises:
        ValueError: an argument is no JSON value (an infinity; ``toolcalls.parse`` never gives one).
    """
    ours, theirs = [_items(call) for call in calls], [_items(call) for call in reference]
    total = sum(map(len, ours)) + sum(map(len, theirs))
    if total == 0:
        return float(same_tools(calls, reference))
    if not ours or not theirs:
        return 0.0
    return 2.0 * _most_shared(ours, theirs) / total


def _items(call: ToolCall) -> frozenset[str]:
    """One string per argument that holds tool, name and value, so that other tools share nothing."""
    return frozenset(canonical([ToolCall(call.name, {key: value})]) for key, value in call.arguments.items())


def _most_shared(ours: Sequence[frozenset[str]], theirs: Sequence[frozenset[str]]) -> int:
    """Arguments in common under the best one-to-one pairing of calls."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (training only; serving must not wait for it)

    shared = np.array([[len(left & right) for right in theirs] for left in ours])
    rows, columns = linear_sum_assignment(shared, maximize=True)
    return int(shared[rows, columns].sum())
