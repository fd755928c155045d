"""``netgpt train round``: one training round by hand, in this process, on a log that need not be this system's.

Its gate asks the cloud as a round of ``netgpt serve`` does, where there is one: an endpoint of the configuration, or
the cloud of the system that runs now.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from actors.model_store import ModelStore
from actors.training import run_job
from orchestrator import run_file
from orchestrator.cloud_leg import api_key, cloud_leg
from orchestrator.config import Config
from orchestrator.learner import Learner, RoundReport
from orchestrator.refit import refit
from orchestrator.second_opinion import Ask, asking
from orchestrator.versions import last_live
from policies.errors import BadConfig, NetGPTError


def train_round(log: Path | None, config: Config, console: Console) -> RoundReport:
    """Train what is live on ``log`` (the configuration's by default) and publish what passes the gate.

    Raises:
        BadConfig: there is no such log, no version to start from, or no key to the cloud.
        StoreError: the store cannot be read.
    """
    log_dir, store = log or config.log_dir, ModelStore(config.store_dir, config.store.keep)
    parent = last_live(store)
    if parent is None:
        raise BadConfig(f"{store.root}: it holds no edge version. Fix: run netgpt serve with this configuration")
    if not log_dir.is_dir():
        raise BadConfig(f"{log_dir}: no such log. Fix: name the directory of an offload log")
    console.print(f"training {parent.version} on {log_dir}", markup=False, highlight=False)
    ask = _ask(config)
    if ask is None:
        words = "no cloud is running that the gate could ask: the log alone judges"
        console.print(words, markup=False, highlight=False)
    with tempfile.TemporaryDirectory(prefix="round-", dir=config.var) as work:  # a round of netgpt serve has its own
        fitted = partial(refit, config)
        accuracy = config.policy.objective.cloud_accuracy
        learner = Learner(
            log_dir, store, config.learner, Path(work) / "job", lambda job, _: run_job(job), fitted,
            ask=ask, cloud_accuracy=accuracy,
        )  # fmt: skip
        report = learner.round(parent)
    console.print(f"{report.reason} ({report.seconds:.0f} s, {report.samples} samples)", markup=False, highlight=False)
    if report.version:
        words = f"Make it live with: netgpt models promote {report.version.version}"
        console.print(words, markup=False, highlight=False)
    return report


def _ask(config: Config) -> Ask | None:
    where = {"cloud": config.cloud.base_url, "cloud_model": config.cloud.model}
    if config.cloud.kind == "serve":
        try:
            where = run_file.read(config.run_file)
        except NetGPTError:
            return None
    api_key("cloud.api_key_env", config.cloud.api_key_env)  # what is missing is said now, not after the training
    return asking(lambda: cloud_leg(config, str(where["cloud"]), str(where["cloud_model"])))
