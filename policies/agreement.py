"""What K drafts of one request say together: a vote over their meanings (self-consistency, arXiv 2203.11171).

Drafts vote for what they mean (``policies.toolcalls``: order of calls and keys does not matter); an invalid one counts
in K and votes for nobody. The raw score of a draft is the smoothed log-odds of its group, so one lone draft is not
"unanimous", and three of three say less than eight of eight. A calibrated map (``policies.calibration``) turns it
into a probability; the map belongs to the K and the temperature it was fitted at. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.score import FloatArray
from policies.toolcalls import canonical
from policies.types import ParsedText

NOBODY = -1


@dataclass(frozen=True, slots=True)
class Vote:
    """The groups of K drafts.

    Args:
        groups: the group of each draft, numbered in the order of their first drafts; ``NOBODY`` for an invalid one.
        winner: the index of the draft that stands for the largest group; None where no draft is valid.
    """

    groups: tuple[int, ...]
    winner: int | None

    @property
    def share(self) -> float:
        """Votes of the winner's group over K, in [0, 1]; 0 without a winner."""
        return 0.0 if self.winner is None else self.groups.count(self.groups[self.winner]) / len(self.groups)

    @property
    def entropy(self) -> float:
        """Of the vote in nats: 0 where all say the same, log K where all differ; the invalid count as one group."""
        shares = (count / len(self.groups) for count in Counter(self.groups).values())
        return max(0.0, -sum(share * math.log(share) for share in shares))

    def raw_scores(self) -> FloatArray:
        """log((votes + 1) / (K - votes + 1)) of each draft's group, shape [K]; an invalid draft has no votes."""
        counts, k = Counter(self.groups), len(self.groups)
        votes = (0 if group == NOBODY else counts[group] for group in self.groups)
        return np.array([math.log((n + 1) / (k - n + 1)) for n in votes], dtype=np.float64)


def vote(drafts: Sequence[ParsedText], valid: Sequence[bool]) -> Vote:
    """Let ``drafts`` vote; of equal groups the one that came first wins, and its first draft stands for it.

    Args:
        valid: which passed the validity gate; what cannot be parsed is never counted as valid.

    Raises:
        ValueError: there are not as many drafts as ``valid``.
    """
    if len(drafts) != len(valid):
        raise ValueError(f"valid must have one value a draft, got {len(valid)} for {len(drafts)}")
    known: dict[tuple[str, str], int] = {}
    groups = tuple(
        known.setdefault(meaning(draft), len(known)) if ok and not draft.error else NOBODY
        for draft, ok in zip(drafts, valid, strict=True)
    )
    votes = Counter(group for group in groups if group != NOBODY)
    return Vote(groups, groups.index(votes.most_common(1)[0][0]) if votes else None)


def meaning(draft: ParsedText) -> tuple[str, str]:
    """A key that two readable drafts share exactly when ``same_answer`` holds."""
    if draft.calls:
        return "calls", canonical(draft.calls)
    return "prose", " ".join(draft.content.split())
