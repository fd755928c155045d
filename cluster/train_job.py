"""One training round as a Ray Train job: one worker, named, on CPU or GPU.

The job is ``actors.training.run_job`` on a file; this module places it, keeps it from starving what serves (bounded
threads, a lower priority, a share of a core), and turns its failures into ``EngineError``. The worker and the learner
must see the same ``work_dir``: one machine, or storage that all nodes mount. Starting and ending a job costs some
seconds, so training and evaluation of the candidate are one job.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context, report
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from actors.training import TrainingJob, TrainingOutcome, run_job
from policies.errors import EngineError

OUTCOME_FILE, PROGRESS_FILE = "outcome.json", "progress.json"
POLL_S = "0.5"  # Ray's 2 s between looks at the worker would be most of an otherwise short job's tail


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the worker may run.

    Args:
        cpus: share of Ray's CPUs; fractions let it fit beside a site.
        gpus: GPUs of the worker; 0 trains on CPU.
        nice: added to the worker's niceness, so serving goes first.
        timeout_s: after it a worker that still runs ends itself and the round fails.
    """

    cpus: float = 0.5
    gpus: int = 0
    nice: int = 10
    timeout_s: float = 600.0


def run_training(job: TrainingJob, name: str, placement: Placement | None = None) -> TrainingOutcome:
    """Run ``job`` on the Ray session of this process; blocks until it ends.

    Args:
        name: of the run, as the dashboard shows it; not used before in this ``work_dir``.

    Raises:
        EngineError: the worker failed, died or took too long; names the run and says why.
    """
    placement = placement or Placement()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": str(job.save()), "nice": placement.nice, "timeout_s": placement.timeout_s},
        scaling_config=_scaling(placement),
        run_config=RunConfig(
            name=name,
            storage_path=str(Path(job.work_dir).absolute() / "ray"),
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": _worker_environment(job.config.threads)},
        ),
    )
    started = time.monotonic()
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except TrainingFailedError as why:
        late = time.monotonic() - started >= placement.timeout_s
        reason = f"it took longer than {placement.timeout_s:g} s" if late else _reason(why)
        raise EngineError(f"training run {name} failed: {reason}") from why
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)  # Ray Train takes Ctrl-C for itself and never gives it back
    return TrainingOutcome.from_json((Path(job.work_dir) / OUTCOME_FILE).read_text(encoding="utf-8"))


def read_progress(work_dir: Path) -> dict[str, float]:
    """The last figures of a running job, empty before the first."""
    try:
        return dict(json.loads((work_dir / PROGRESS_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def train_loop(config: dict[str, Any]) -> None:
    """What the worker runs; Ray Train calls it in the worker's process."""
    os.nice(config["nice"])
    faulthandler.dump_traceback_later(config["timeout_s"], exit=True, file=2)
    job = TrainingJob.load(Path(config["job"]))
    work_dir = Path(job.work_dir)
    outcome = run_job(job, lambda figures: _tell(work_dir, figures))
    _replace(work_dir / OUTCOME_FILE, outcome.to_json())
    report({**outcome.figures, "drift_nats": outcome.drift_nats})
    faulthandler.cancel_dump_traceback_later()


def _tell(work_dir: Path, figures: dict[str, float]) -> None:
    if get_context().get_world_rank() == 0:
        _replace(work_dir / PROGRESS_FILE, json.dumps(figures))


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, for readers in other processes."""
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.rename(path)


def _scaling(placement: Placement) -> ScalingConfig:
    resources: dict[str, float] = {"CPU": placement.cpus}
    if placement.gpus:
        resources["GPU"] = placement.gpus
    return ScalingConfig(num_workers=1, use_gpu=placement.gpus > 0, resources_per_worker=resources)


def _worker_environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def _reason(why: TrainingFailedError) -> str:
    """The worker's own words, without Ray's traceback."""
    failures = getattr(why, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), why)
    inner = getattr(cause, "cause", None) or cause.__cause__ or cause
    lines = str(inner).strip().splitlines()
    return lines[-1].split(" Worker exit type:")[0] if lines else repr(inner)
