"""Training rounds on one long-lived Ray Train job: workers that stay up between rounds, on CPU or GPU.

``Workers`` starts a group of workers with the first round and hands them one job after another, as files: an order says
where the job lies, ``outcome.json`` beside the job is the answer. What a worker does with it is
``actors.training.run_job``; with several, each takes its share of every batch (``actors.data_parallel``). This module
places them, keeps them from starving what serves (bounded threads, the lowest priority, a share of a core), and turns
their failures into ``EngineError``: a worker that fails, dies or hangs ends its group, and the next round starts
another. Where workers died, as under kill -9 or the kernel's hunt for memory, new ones go on with the same job from its
last checkpoint. All nodes must see the directories: one machine, or storage that all mount.

A round of one step on the bundled edge model took 29 s where it started its worker and 1.4-1.8 s afterwards, on two
busy cores. The start costs more than a small round: Ray Train's six helpers and the worker import what they need, all
at the lowest priority (where there is ``nice``). An idle worker holds some 450 MB.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from actors.data_parallel import Peers
from actors.training import TrainingJob, TrainingOutcome, run_job, take_part
from cluster.processes import LOWEST, give_way
from policies.errors import EngineError

log = logging.getLogger(__name__)

ORDER_FILE, OUTCOME_FILE, PROGRESS_FILE = "order.json", "outcome.json", "progress.json"
HUNG_FILE, FAILED_FILE = "hung.txt", "failed.txt"
POLL_S = 0.2  # between two looks for a file: nothing beside a round's seconds, and no work for the machine
START_S = 120.0  # workers that have not started by then wait for resources that nobody gives back
RESTARTS = 2  # of a job whose workers died: what kills them a third time is likely the job itself
IDLE_S = 600.0  # rounds are minutes to a day apart; idle workers hold some 500 MB each, a new group costs seconds
STOPPED = "the workers were stopped"


@dataclass(frozen=True, slots=True)
class Placement:
    """How many workers, and where they may run.

    Args:
        workers: that share each batch.
        cpus: share of Ray's CPUs for each; fractions let it fit beside a site.
        timeout_s: after it a worker that still works on a job ends itself, and the round fails.
    """

    workers: int = 1
    cpus: float = 0.5
    timeout_s: float = 600.0


class Workers:
    """The workers of one system, on the Ray session of this process.

    Args:
        directory: for orders and for Ray Train's own files; this object's alone, removed by ``stop``.
    """

    def __init__(self, directory: Path, placement: Placement | None = None) -> None:
        self._directory, self._placement = directory.absolute(), placement or Placement()
        shutil.rmtree(self._directory, ignore_errors=True)  # of a system that was killed: its workers end by it
        self._turn, self._over = threading.Lock(), threading.Event()
        self._group: Group | None = None
        self._rest = threading.Timer(IDLE_S, self._end_idle)

    def run(self, job: TrainingJob, name: str) -> TrainingOutcome:
        """Have ``job`` done; blocks until it is, one job at a time. The workers stay for the next.

        Args:
            name: of the run, for the message when it fails.

        Raises:
            EngineError: a worker failed, died or took too long; says which and why.
            CancelledError: ``stop`` was called, before or meanwhile.
        """
        with self._turn:
            return self._run(job, name, RESTARTS)

    def stop(self) -> None:
        """End the workers, now if they are idle, with their job otherwise; a ``run`` under way fails. Twice is safe."""
        if self._over.is_set():
            return  # the directory may be the next system's by now
        self._over.set()
        self._rest.cancel()
        with self._turn:
            self._end()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def stopped(self) -> bool:
        """Whether no ``run`` can come any more."""
        return self._over.is_set()

    def _run(self, job: TrainingJob, name: str, restarts: int) -> TrainingOutcome:
        if self._over.is_set():
            raise CancelledError(STOPPED)
        try:
            with self._kept(job.config.threads) as group:
                return group.do(job, self._placement.timeout_s, self._over)
        except EngineError as why:
            if not (restarts and isinstance(why, _WorkersDiedError)):
                raise EngineError(f"training run {name} failed: {why}") from why.__cause__
            log.warning("training run %s: %s; new workers go on from its last checkpoint", name, why)
        return self._run(job, name, restarts - 1)

    @contextmanager
    def _kept(self, threads: int) -> Iterator[Group]:
        """A group that runs, from before or new; ended where the block fails, else after ``IDLE_S`` without a job."""
        self._rest.cancel()
        if self._group is None or not self._group.alive:
            self._end()
            self._group = Group(self._directory, self._placement, threads)
        try:
            yield self._group
        except BaseException:
            self._end()
            raise
        self._rest = threading.Timer(IDLE_S, self._end_idle)
        self._rest.daemon = True
        self._rest.start()

    def _end_idle(self) -> None:
        with self._turn:
            self._end()

    def _end(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.end()


class _WorkersDiedError(EngineError):
    """They ended without a word of their own."""


class Group:
    """One Ray Train run: the workers and the directory with their orders.

    Only whoever waits for a job looks at the run: a thread that did so after the end of Ray would end this process.
    """

    def __init__(self, directory: Path, placement: Placement, threads: int) -> None:
        name = f"netgpt-train-{uuid.uuid4().hex[:8]}"
        self._orders = directory / name
        self._orders.mkdir(parents=True)
        low = {"py_executable": f"nice -n {LOWEST} {sys.executable}"} if shutil.which("nice") else {}
        # From a process of the lowest priority, which the run's own processes inherit: there are seven.
        fitting = ray.remote(num_cpus=0, max_retries=0, runtime_env=low)(_fit)
        self._run = fitting.remote(name, str(self._orders), placement, threads, _free_gpus(placement.workers))

    @property
    def alive(self) -> bool:
        """Whether it takes orders."""
        return not ray.wait([self._run], timeout=0)[0]

    def do(self, job: TrainingJob, timeout_s: float, over: threading.Event) -> TrainingOutcome:
        """Order ``job`` and wait for its outcome; raises as ``Workers.run``, without the run's name."""
        outcome, hung, failed = (Path(job.work_dir) / name for name in (OUTCOME_FILE, HUNG_FILE, FAILED_FILE))
        for old in (outcome, hung, failed):
            old.unlink(missing_ok=True)
        _replace(self._orders / ORDER_FILE, json.dumps({"id": uuid.uuid4().hex, "job": str(job.save())}))
        latest = time.monotonic() + START_S + timeout_s
        while not outcome.exists():
            if over.wait(POLL_S):
                raise CancelledError(STOPPED)
            if not self.alive:
                why = self._failure()
                if said := _said(failed) or _late(hung, timeout_s):
                    raise EngineError(said) from why
                raise _WorkersDiedError(_words(why) if why else "its workers ended") from why
            if time.monotonic() > latest:
                raise EngineError(f"its workers did not start, or do not answer, for {START_S + timeout_s:g} s")
        return TrainingOutcome.from_json(outcome.read_text(encoding="utf-8"))

    def end(self) -> None:
        """Let the workers go once they have nothing to do; does not wait."""
        shutil.rmtree(self._orders, ignore_errors=True)

    def _failure(self) -> Exception | None:
        """Why the run, which is over, failed."""
        try:
            ray.get(self._run)
        except Exception as why:  # whatever Ray raises
            return getattr(why, "cause", None) or why
        return None


def read_progress(work_dir: Path) -> dict[str, float]:
    """The last figures of a running job, empty before the first."""
    try:
        return dict(json.loads((work_dir / PROGRESS_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _fit(name: str, orders: str, placement: Placement, threads: int, gpus: bool) -> None:
    """One Ray Train run, until the directory of orders is gone."""
    DataParallelTrainer(
        worker_loop,
        train_loop_config={"orders": orders, "gpus": gpus, **asdict(placement)},
        scaling_config=_scaling(placement, gpus),
        run_config=RunConfig(
            name=name,
            storage_path=str(Path(orders).parent / "ray"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": _worker_environment(threads)},
        ),
    ).fit()


def worker_loop(config: dict[str, Any]) -> None:
    """What a worker runs, in its own process: jobs as they are ordered, until the directory of orders is gone."""
    give_way()  # where the whole process has not; this thread starts all that computes, vLLM's rollouts too
    orders, done = Path(config["orders"]), ""
    while orders.is_dir():
        order = _read_order(orders)
        if order is None or order["id"] == done:
            time.sleep(POLL_S)
            continue
        done = order["id"]
        job = TrainingJob.load(Path(order["job"]))
        peers = _peers(job, done, config["gpus"])
        with _watched(Path(job.work_dir) / HUNG_FILE, config["timeout_s"]), _telling(job, peers):
            _work(job, peers)


def _work(job: TrainingJob, peers: Peers) -> None:
    if peers.rank:
        take_part(job, peers)
        return
    work_dir = Path(job.work_dir)
    outcome = run_job(job, lambda figures: _replace(work_dir / PROGRESS_FILE, json.dumps(figures)), peers)
    _replace(work_dir / OUTCOME_FILE, outcome.to_json())


@contextmanager
def _watched(hung: Path, timeout_s: float) -> Iterator[None]:
    """End this process, with its stack in ``hung``, when the block takes too long: also where it holds the GIL."""
    with hung.open("a") as file:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _telling(job: TrainingJob, peers: Peers) -> Iterator[None]:
    """Leave a file that says why the block failed; who died leaves none, nor who only lost another worker."""
    try:
        yield
    except Exception as why:
        if peers.size == 1 or isinstance(why, EngineError):
            told = str(why) if isinstance(why, EngineError) else repr(why)
            _replace(Path(job.work_dir) / FAILED_FILE, told)
        raise


def _peers(job: TrainingJob, order: str, gpus: bool) -> Peers:
    context, meeting = get_context(), Path(job.work_dir) / f"meeting-{order}"
    backend = "nccl" if gpus else "gloo"
    return Peers(context.get_world_rank(), context.get_world_size(), str(meeting), backend)


def _read_order(orders: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads((orders / ORDER_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, for readers in other processes."""
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.rename(path)


def _free_gpus(workers: int) -> bool:
    """Whether each worker can have a GPU of its own now."""
    return float(ray.available_resources().get("GPU", 0.0)) >= workers


def _scaling(placement: Placement, gpus: bool) -> ScalingConfig:
    resources = {"CPU": placement.cpus} | ({"GPU": 1.0} if gpus else {})
    return ScalingConfig(num_workers=placement.workers, use_gpu=gpus, resources_per_worker=resources)


def _worker_environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def _said(failed: Path) -> str:
    """Why a worker gave its job up, in its words; empty where it did not."""
    return failed.read_text(encoding="utf-8") if failed.exists() else ""


def _late(hung: Path, timeout_s: float) -> str | None:
    """Whether a worker ended itself, in words; where it was goes to the log."""
    if not hung.exists() or not (stack := hung.read_text(encoding="utf-8")):
        return None
    log.warning("a training worker was ended at\n%s", stack)
    return f"it took longer than {timeout_s:g} s"


def _words(why: Exception) -> str:
    """The worker's own words, without Ray's traceback."""
    failures = getattr(why, "worker_failures", {})
    cause: BaseException = next(iter(failures.values()), why)
    inner = getattr(cause, "cause", None) or cause.__cause__ or cause
    lines = str(inner).strip().splitlines()
    return lines[-1].split(" Worker exit type:")[0] if lines else repr(inner)
