"""``netgpt train round``: one training round by hand, in this process, on a log that need not be this system's."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from actors.model_store import ModelStore
from actors.training import run_job
from orchestrator.config import Config
from orchestrator.learner import Learner, RoundReport
from orchestrator.refit import refit
from orchestrator.versions import last_live
from policies.errors import BadConfig


def train_round(log: Path | None, config: Config, console: Console) -> RoundReport:
    """Train what is live on ``log`` (the configuration's by default) and publish what passes the gate.

    Raises:
        BadConfig: there is no such log, or no version to start from.
        StoreError: the store cannot be read.
    """
    log_dir, store = log or config.log_dir, ModelStore(config.store_dir, config.store.keep)
    parent = last_live(store)
    if parent is None:
        raise BadConfig(f"{store.root}: it holds no edge version. Fix: run netgpt serve with this configuration")
    if not log_dir.is_dir():
        raise BadConfig(f"{log_dir}: no such log. Fix: name the directory of an offload log")
    console.print(f"training {parent.version} on {log_dir}", markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="round-", dir=config.var) as work:  # a round of netgpt serve has its own
        fitted = partial(refit, config)
        accuracy = config.policy.objective.cloud_accuracy
        learner = Learner(
            log_dir, store, config.learner, Path(work) / "job", lambda job, _: run_job(job), fitted,
            cloud_accuracy=accuracy,
        )  # fmt: skip
        report = learner.round(parent)
    console.print(f"{report.reason} ({report.seconds:.0f} s, {report.samples} samples)", markup=False, highlight=False)
    if report.version:
        words = f"Make it live with: netgpt models promote {report.version.version}"
        console.print(words, markup=False, highlight=False)
    return report
