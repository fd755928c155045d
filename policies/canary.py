"""Whether new weights are worse than those they replace, from live labels, looked at as often as one likes.

Three losses, each compared with its mean under the old weights:

- Of each request: the edge has no right draft. It is wrong (a label stands for 1 / propensity requests, an unlabelled
  draft counts 0, so the mean is unbiased), or the edge gave up before its end, which counts 1: weights that try what
  others gave up must not look worse for it. Losses are weighed and not successes, because few audited drafts are wrong
  and the estimate is so much quieter.
- Of each request: its draft is invalid.
- Of each audit: the draft that was served is wrong, beyond what its score had promised. Weights that serve more, at the
  same threshold, may be wrong more often without being worse; weights that are surer than they are right may not.

The test is an e-process. For a supposed old mean m, one gambler bets that the new mean is above m + margin, another
that the old mean is below m; under "not worse by more than margin" neither bet is favourable at the true m, so the
product of their wealths stays below 1 / delta with probability 1 - delta for all time (Ville, 1939). The evidence is
the least product over all m, for cells of a grid: each cell is tested at its unfavourable ends. Bets follow what was
seen before they are placed (Waudby-Smith and Ramdas, 2024). Requests must be alike before and after: traffic that
changes at the very moment of a swap cannot be told from weights that are worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from policies.checks import probability
from policies.score import FloatArray

CELLS = 200  # half a point each: what a margin of a point or two needs
CHUNK = (
    10  # losses between two looks at the bets, wherever reads of the log begin: evidence is the same after a restart
)
MISCALIBRATED = 0.05  # how far audits may be off what fresh scores promise, besides the margin
BOLDEST = 0.75  # share of the largest bet; all of it could be lost at once
LEAST_LABELS = 30  # below it time alone promotes nothing


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """When a canary ends.

    Args:
        labels: of its drafts, after which it is promoted if it does not look worse.
        longest_s: seconds after which it is promoted unless it is proved worse (and some labels came).
        margin: loss of success or validity that is tolerated.
        delta: probability of rolling back a version that is not worse by more than ``margin``, ever.

    Raises:
        ValueError: a number makes no sense.
    """

    labels: int = 200
    longest_s: float = 86_400.0
    margin: float = 0.02
    delta: float = 0.05

    def __post_init__(self) -> None:
        probability(margin=self.margin)
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta!r}")
        if self.labels < 1 or not self.longest_s > 0.0:
            raise ValueError(f"labels and longest_s must be > 0, got {self.labels!r}, {self.longest_s!r}")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests that some weights drafted for.

    Args:
        wrong: 1 / propensity where a label says that the draft is wrong, 1 where none was made to its end, else 0; [n].
        invalid: whether the draft may not be served; [n].
        audits: (wrong + score) / 2 of each draft that was served and audited, in [0, 1]; shape [m].
        labels: how many were labelled.
        heaviest: largest 1 / propensity that a label could have had.
    """

    wrong: FloatArray
    invalid: FloatArray
    audits: FloatArray
    labels: int
    heaviest: float = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should become of the new weights, and why."""

    action: Literal["wait", "promote", "roll back"]
    reason: str


class Comparison:
    """The e-process of one loss: "the new mean is at most the old one + margin".

    Args:
        old: losses under the old weights, all of them, in [0, heaviest]; shape [n].
        heaviest: see above; at least 1.
    """

    def __init__(self, old: FloatArray, heaviest: float, margin: float) -> None:
        assert heaviest >= 1.0, heaviest
        edges = np.linspace(0.0, 1.0, CELLS + 1)
        most = edges[1:] + margin  # the new mean is at most that in each cell, and the old one at least the lower end
        self._new = _Gambler(most, BOLDEST / most)
        before = _Gambler(-edges[:-1], BOLDEST / (heaviest - edges[:-1] + 1e-9))
        before.add(-old)
        self._old = before.log_wealth

    def add(self, losses: FloatArray) -> None:
        """Losses under the new weights, [n], as they come."""
        self._new.add(losses)

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of the evidence now against "not worse"."""
        return float((self._old + self._new.log_wealth).min())


class _Gambler:
    """Bets that a mean is above each of ``means``, [cells], never more than ``most`` of the wealth, [cells].

    No value may be so low that ``most * (value - mean)`` is -1 or less.
    """

    def __init__(self, means: FloatArray, most: FloatArray) -> None:
        self._means, self._most = means, most
        self._count, self._sum, self._squares = 1, 0.0, 1.0  # before anything is seen: a spread of 1, a mean of 0
        self._chunk: list[FloatArray] = []
        self._bet = np.zeros(len(means))
        self.log_wealth = np.zeros(len(means))

    def add(self, values: FloatArray) -> None:
        """Values as they come, [n]."""
        while len(values):
            room = CHUNK - sum(map(len, self._chunk))
            part, values = values[:room], values[room:]
            self.log_wealth += np.log1p(self._bet * (part[:, None] - self._means)).sum(axis=0)
            self._chunk.append(part)
            if len(part) == room:
                self._learn(np.concatenate(self._chunk))
                self._chunk = []

    def _learn(self, chunk: FloatArray) -> None:
        """Bet by ``chunk`` too from now on, never on it: that makes the game fair."""
        self._count += len(chunk)
        self._sum += float(chunk.sum())
        self._squares += float(chunk @ chunk)
        mean = self._sum / self._count
        spread = self._squares / self._count - mean**2
        above = mean - self._means
        self._bet = np.clip(above / (spread + above**2), 0.0, self._most)


@dataclass(slots=True)
class _Tally:
    """Running means."""

    requests: int = 0
    labels: int = 0
    wrong: float = 0.0
    invalid: float = 0.0
    audits: int = 0
    excess: float = 0.0

    def add(self, outcomes: Outcomes) -> None:
        self.requests += len(outcomes.wrong)
        self.labels += outcomes.labels
        self.wrong += float(outcomes.wrong.sum())
        self.invalid += float(outcomes.invalid.sum())
        self.audits += len(outcomes.audits)
        self.excess += float((2.0 * outcomes.audits - 1.0).sum())

    @property
    def surprise(self) -> float:
        """How much more often than promised what was served was wrong."""
        return self.excess / max(self.audits, 1)

    @property
    def rates(self) -> tuple[float, float]:
        count = max(self.requests, 1)
        return self.wrong / count, self.invalid / count


@dataclass(slots=True)
class Watch:
    """New weights at one site, compared with the old ones there.

    Args:
        old: what the old weights did at that site.
        rules: whose ``delta`` is shared between the three losses and ``sites``.
        sites: how many are watched at once.
    """

    old: Outcomes
    rules: CanaryRules
    sites: int = 1
    _before: _Tally = field(default_factory=_Tally, init=False)
    _after: _Tally = field(default_factory=_Tally, init=False)
    _tests: dict[str, Comparison] = field(default_factory=dict, init=False)
    _strongest: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._before.add(self.old)
        margin = self.rules.margin
        self._tests["wrong"] = Comparison(self.old.wrong, self.old.heaviest, margin)
        self._tests["invalid"] = Comparison(self.old.invalid, 1.0, margin)
        self._tests["audits"] = Comparison(self.old.audits, 1.0, (MISCALIBRATED + margin) / 2.0)

    def add(self, new: Outcomes) -> None:
        """What the new weights did since."""
        self._after.add(new)
        self._tests["wrong"].add(new.wrong)
        self._tests["invalid"].add(new.invalid)
        self._tests["audits"].add(new.audits)
        self._strongest = max(self._strongest, *(test.log_evidence for test in self._tests.values()))

    @property
    def labels(self) -> int:
        """Labels of the new weights so far."""
        return self._after.labels

    @property
    def evidence(self) -> float:
        """The strongest so far, as a share of what rolls back; 1 does."""
        return self._strongest / math.log(len(self._tests) * self.sites / self.rules.delta)

    @property
    def summary(self) -> str:
        """The figures in words."""
        after, before = self._after, self._before
        if not before.requests:
            return f"{after.labels} labels of {after.requests} requests, nothing to compare with"
        (wrong, invalid), (old_wrong, old_invalid) = after.rates, before.rates
        return (
            f"no right draft {wrong:.1%} (before {old_wrong:.1%}), invalid {invalid:.1%} (before {old_invalid:.1%}), "
            f"{after.audits} audits {after.surprise:+.1%} off their scores (before {before.surprise:+.1%}), "
            f"{after.labels} labels of {after.requests} requests, {max(self.evidence, 0.0):.0%} of the evidence needed"
        )

    def verdict(self, waited_s: float) -> Verdict:
        """What should become of a canary that runs since ``waited_s``."""
        if self.evidence >= 1.0:
            return Verdict("roll back", f"worse with confidence {1 - self.rules.delta:.0%}: {self.summary}")
        if self.labels >= self.rules.labels and not self._looks_worse:
            known = "not worse" if self._before.requests else "nothing speaks against it"
            return Verdict("promote", f"{known}: {self.summary}")
        if waited_s >= self.rules.longest_s and self.labels >= LEAST_LABELS:
            return Verdict("promote", f"not proved worse in {waited_s / 3600:.1f} hours: {self.summary}")
        return Verdict("wait", self.summary)

    @property
    def _looks_worse(self) -> bool:
        if not self._before.requests:
            return False
        pairs = zip(self._after.rates, self._before.rates, strict=True)
        return any(new > old + self.rules.margin for new, old in pairs)
