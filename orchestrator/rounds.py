"""The training rounds of one system: for all sites, then where wanted for each, on workers that stay between them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from actors.model_store import ModelStore
from cluster import train_job
from orchestrator.config import Config
from orchestrator.learner import Learner, RoundReport
from orchestrator.personal import PersonalEdges, personal_options
from orchestrator.refit import refit
from orchestrator.releases import Releases
from orchestrator.second_opinion import Ask


class Rounds:
    """Rounds as Ray Train jobs, on the Ray session of this process.

    Args:
        config: of the next round.
        ask: the cloud, for the gate.
    """

    def __init__(self, config: Config, store: ModelStore, ask: Ask) -> None:
        self.config, self._store, self._ask = config, store, ask
        self._workers: train_job.Workers | None = None
        self.personal: PersonalEdges | None = None

    def begin(self, releases: Releases) -> None:
        """The system starts; from now on a site may get a version of its own, if the configuration says so."""
        config, self._workers = self.config, None
        if config.learner.personal:
            self.personal = PersonalEdges(self._store, config.log_dir, releases, config.learner, self._learner)

    def learn(self) -> RoundReport:
        """One round on the log from what is live; blocks, and changes nothing for all sites.

        Where it finds nothing better for all, and ``learner.personal`` is set, each site has a round of its own,
        and what passes is live there.
        """
        report = self._learner(None).round()
        if self.personal is None or report.version is not None or self._stopped():
            return report
        own = self.personal.round()
        return replace(report, given=[site for site, found in own.items() if found.version is not None])

    def stop(self) -> None:
        """End the workers, and cut off a round that is under way; safe to call twice."""
        if self._workers is not None:
            self._workers.stop()

    def _stopped(self) -> bool:
        return self._workers is not None and self._workers.stopped

    def _learner(self, site: str | None) -> Learner:
        config, options = self.config, self.config.learner
        if self._workers is None:
            where = train_job.Placement(workers=options.workers, timeout_s=options.timeout_s)
            self._workers = train_job.Workers(config.workers_dir, where)
        return Learner(
            config.log_dir,
            self._store,
            personal_options(options) if site else options,
            config.work_dir,
            self._workers.run,
            partial(refit, config),
            site,
            self._ask,
            config.policy.objective.cloud_accuracy,
        )
