"""The offload log as it grows, and what it says of weights that replaced others: ``policies.canary`` fed with records.

A ``Comparing`` is built for two versions and reads what the log has of them, so a restart loses nothing: the evidence
is in the log. Left out are records that say nothing of the weights alone: the cloud failed, or could not be asked. A
draft that only exploration began counts as given up, as without exploration it would have been.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.log_files import read_log
from policies.canary import CanaryRules, Outcomes, Verdict, Watch
from policies.toolcalls import parse, same_answer
from policies.types import Reason

logger = logging.getLogger(__name__)

BASELINE = 4000  # newest requests of the old weights: more are of other days' traffic, fewer hide a loss of ten points
HEAVIEST = 50.0  # requests one label may stand for; rarer audits tell nothing within a day
_CUT = (str(Reason.DRAFT_SKIPPED), str(Reason.DRAFT_ABANDONED), str(Reason.CLOUD_ASKED))
COLUMNS = (
    "site",
    "seq",
    "time_us",
    "draft",
    "draft_error",
    "draft_version",
    "draft_propensity",
    "score",
    "reason",
    "propensity",
    "cloud",
    "cloud_error",
)


class LogTail:
    """New records of a log, each once.

    Args:
        root: of the offload log.
        after: the last sequence number of each site that is not news.
    """

    def __init__(self, root: Path, after: Mapping[str, int] | None = None) -> None:
        self._root, self._after = root, dict(after or {})

    def read(self) -> pa.Table:
        """``COLUMNS`` of all since the last call; a file that cannot be read is left out, lest it end all learning.

        Raises:
            LogError: the log cannot be read.
        """
        table = read_log(self._root, self._after, Counter(), COLUMNS)
        known = np.array([self._after.get(site, -1) for site in table["site"].to_pylist()], dtype=np.int64)
        table = table.filter(pa.array(table["seq"].to_numpy() > known))
        for site in pc.unique(table["site"]).to_pylist():
            self._after[site] = pc.max(table.filter(pc.field("site") == site)["seq"]).as_py()
        return table


class Comparing:
    """``new`` compared with ``old`` on every site that has records of both.

    Args:
        root: of the offload log.
        new, old: versions.
        begun_us: Unix time from which ``new`` ran; what ``old`` did before it is the measure.
    """

    def __init__(self, root: Path, new: str, old: str, begun_us: int, rules: CanaryRules) -> None:
        self.new, self.old, self._begun_us, self._rules = new, old, begun_us, rules
        self._tail = LogTail(root)
        self._watches: dict[str, Watch] = {}
        self._before: dict[str, list[Mapping[str, Any]]] | None = None

    def read(self) -> None:
        """Take what the log has that is new.

        Raises:
            LogError: the log cannot be read.
        """
        table = self._tail.read()
        if self._before is None:
            self._before = _by_site(table, self.old, before_us=self._begun_us, most=BASELINE)
        for site, rows in _by_site(table, self.new, since_us=self._begun_us).items():
            self._watch(site).add(outcomes(rows))

    def verdict(self, waited_s: float) -> Verdict:
        """Of all sites: worse at one is worse; else the words of the site with the most labels."""
        if not self._watches:
            return Verdict("wait", "no requests yet")
        found = {site: watch.verdict(waited_s) for site, watch in self._watches.items()}
        worse = [site for site, verdict in found.items() if verdict.action == "roll back"]
        site = worse[0] if worse else max(self._watches, key=lambda name: self._watches[name].labels)
        return Verdict(found[site].action, f"{site}: {found[site].reason}")

    def gauges(self) -> dict[str, float]:
        """Labels of the new weights, and the strongest evidence against them (1 rolls back)."""
        watches = list(self._watches.values())
        return {
            "canary_labels": float(sum(watch.labels for watch in watches)),
            "canary_evidence": max((watch.evidence for watch in watches), default=0.0),
        }

    def _watch(self, site: str) -> Watch:
        if site not in self._watches:
            before = (self._before or {}).get(site, [])
            self._watches[site] = Watch(outcomes(before), self._rules, max(len(self._before or {}), 1))
        return self._watches[site]


def outcomes(rows: Sequence[Mapping[str, Any]]) -> Outcomes:
    """What the drafts of ``rows`` came to."""
    told = [row for row in rows if _tells(row)]
    drafted = [row for row in told if not _given_up(row)]
    known = [row for row in drafted if row["cloud"] is not None]
    audited = [row for row in known if row["reason"] == str(Reason.SCORE_PASSED)]
    wrong = [0.0 if row["cloud"] is None or _right(row) else 1.0 / row["propensity"] for row in drafted]
    given_up = len(told) - len(drafted)
    return Outcomes(
        wrong=np.array(wrong + [1.0] * given_up, dtype=np.float64),
        invalid=np.array([row["draft_error"] is not None for row in drafted] + [False] * given_up, dtype=np.float64),
        audits=np.array([(row["score"] + (not _right(row))) / 2.0 for row in audited], dtype=np.float64),
        labels=len(known),
        heaviest=max((1.0 / row["propensity"] for row in told), default=1.0),
    )


def labelled(table: pa.Table) -> int:
    """Records with the cloud's answer."""
    return len(table) - int(table["cloud"].null_count)


def _tells(row: Mapping[str, Any]) -> bool:
    return row["cloud_error"] is None and 1.0 / HEAVIEST <= row["propensity"] <= 1.0


def _given_up(row: Mapping[str, Any]) -> bool:
    return row["reason"] in _CUT or row["draft_propensity"] < 1.0


def _right(row: Mapping[str, Any]) -> bool:
    return row["draft_error"] is None and same_answer(parse(row["draft"]), parse(row["cloud"]))


def _by_site(
    table: pa.Table, version: str, since_us: int = 0, before_us: int = sys.maxsize, most: int = sys.maxsize
) -> dict[str, list[Mapping[str, Any]]]:
    """The records of ``version`` between two times, of each site the newest ``most``."""
    time_us = pc.field("time_us")
    table = table.filter((pc.field("draft_version") == version) & (time_us >= since_us) & (time_us < before_us))
    own = {site: table.filter(pc.field("site") == site) for site in pc.unique(table["site"]).to_pylist()}
    return {site: found.slice(max(len(found) - most, 0)).to_pylist() for site, found in own.items()}
