"""Personal edges: on the base that all sites share, one adapter for each site, learnt from that site's own records.

A personal round is a ``Learner``'s with the records of one site: the same split, the same gate against what the site
runs now, a calibrator of its own. What passes is made live at that site alone; a site with too few records, or whose
adapter the gate refuses, keeps what it has, and the report says why. A site's next adapter goes on from its last one,
or from what all sites share once that has moved on; either way it must win against the last. No canary comes first, as
the site is the only one concerned; but its version is watched like any other, and goes when it is proved worse than
what ran there before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from actors.log_files import read_log
from actors.model_store import ModelStore
from actors.options import LearnerOptions
from orchestrator.learner import Learner, RoundReport
from orchestrator.loop import HOUR_S, canary_rules
from orchestrator.releases import Releases
from orchestrator.versions import last_live
from orchestrator.watching import Comparing
from policies.errors import NetGPTError
from policies.release import Personal

log = logging.getLogger(__name__)

ADAPTER_ONLY = {"method": "lora", "policy_steps": 0}  # the latter train all weights


class PersonalEdges:
    """The own versions of all sites of a log.

    Args:
        store, log_dir: versions and the offload log.
        releases: what moves versions.
        options: the learner's; ``personal_options`` of them are what ``learner`` works with.
        learner: the one of a site.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        store: ModelStore,
        log_dir: Path,
        releases: Releases,
        options: LearnerOptions,
        learner: Callable[[str], Learner],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._log_dir, self._releases = store, log_dir, releases
        self._options, self._learner, self._clock = options, learner, clock
        self._comparing: dict[str, Comparing] = {}

    def round(self) -> Mapping[str, RoundReport]:
        """One round for each site that has records; what passes its gate is live there afterwards.

        Raises:
            LogError: the log cannot be read.
        """
        sites = sorted(pc.unique(read_log(self._log_dir)["site"]).to_pylist())
        reports = {site: self._round(site) for site in sites}
        for site, report in reports.items():
            log.warning("personal edge of %s: %s", site, report.reason)
        return reports

    def watch(self) -> None:
        """Take back what is proved worse than what ran at its site before.

        Raises:
            NetGPTError: the log cannot be read, or the site could not load the other version.
        """
        for site, own in self._releases.state.personal.items():
            watched_s = self._clock() - own.since_us / 1e6
            if own.before is None or watched_s > self._options.canary.watch_hours * HOUR_S:
                self._comparing.pop(site, None)
                continue
            compared = self._compared(site, own, own.before)
            compared.read()
            verdict = compared.verdict(watched_s)
            if verdict.action == "roll back":
                self._releases.take_back(site, verdict.reason)

    def _round(self, site: str) -> RoundReport:
        state = self._releases.state
        own = state.personal.get(site)
        moved_on = own is not None and state.since_us > own.since_us
        start = last_live(self._store) if moved_on else None
        report = self._learner(site).round(last_live(self._store, site), start)
        if report.version is None:
            return report
        try:
            self._releases.promote(self._store.get(report.version.version), report.reason)
        except NetGPTError as why:
            return replace(report, reason=f"{report.version.version} is not live at {site}: {why}", version=None)
        return report

    def _compared(self, site: str, own: Personal, before: str) -> Comparing:
        known = self._comparing.get(site)
        if known is None or (known.new, known.old) != (own.version, before):
            rules = canary_rules(self._options.canary)
            known = Comparing(self._log_dir, own.version, before, own.since_us, rules)
            self._comparing[site] = known
        return known


def personal_options(options: LearnerOptions) -> LearnerOptions:
    """The options of a site's own rounds: an adapter, by supervised steps."""
    return options.model_copy(update=ADAPTER_ONLY)
