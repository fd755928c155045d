"""Rounds on one long-lived Ray Train job: workers that stay, die, hang, are several, and go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_model import tiny_model_dir

from actors.training import Sample, TrainConfig, TrainingJob, TrainingOutcome, run_job
from cluster import session, train_job
from cluster.options import RayOptions
from cluster.processes import LOWEST
from cluster.train_job import Placement, Workers, read_progress
from policies.errors import EngineError
from policies.toolcalls import render
from policies.types import ToolCall

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own deprecations, in this process

TOOL = {"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}}
CONFIG = TrainConfig(steps=4, batch_size=4, variants=1, max_new_tokens=8)
ENDLESS = replace(CONFIG, steps=10_000_000, time_limit_s=1e6)
GONE_S = 30.0


def ask(n: int) -> Sample:
    return Sample([{"role": "user", "content": f"move {n}"}], [TOOL], render([ToolCall("move", {"to": str(n)})]))


@pytest.fixture(scope="module")
def live() -> Iterator[session.Session]:
    roots = os.pathsep.join(str(path) for path in (Path(__file__).parents[1], Path(__file__).parent))
    options = RayOptions(dashboard_port=0, temp_dir=Path("/tmp/netgpt-train"), num_cpus=2)
    running = session.start(options, environment={"PYTHONPATH": roots})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(base: Path, tmp_path: Path) -> TrainingJob:
    return TrainingJob(str(base), str(tmp_path / "work"), [ask(n) for n in range(6)], [ask(9)], [ask(1)], config=CONFIG)


@pytest.fixture(scope="module")
def workers(live: session.Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    directory = tmp_path_factory.mktemp("workers") / "here"
    kept = Workers(directory)
    yield kept
    kept.stop()
    assert not directory.exists()


def processes() -> list[psutil.Process]:
    """The training workers that run below this process."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "RayTrainWorker" in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def wait_for(what: str, seconds: float, happens: object) -> None:
    deadline = time.monotonic() + seconds
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.05)


def in_background(workers: Workers, job: TrainingJob) -> tuple[threading.Thread, list[BaseException]]:
    """A run of an endless job whose training has begun, and what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            workers.run(job, "netgpt-train-endless")
        except BaseException as why:
            raised.append(why)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for("progress", 120, lambda: read_progress(Path(job.work_dir)))
    return thread, raised


def test_the_second_round_runs_on_the_workers_of_the_first(workers: Workers, job: TrainingJob) -> None:
    began = time.monotonic()
    first = workers.run(job, "netgpt-train-1")
    between = time.monotonic()
    kept = processes()
    second = workers.run(job, "netgpt-train-2")
    assert len(kept) == 1 and processes() == kept
    assert second.figures["step"] == CONFIG.steps and (Path(second.candidate_dir) / "model.safetensors").exists()
    assert replace(second, figures={}) == replace(first, figures={}), "the same job, the same outcome"
    assert time.monotonic() - between < (between - began) / 2


def test_a_round_whose_worker_is_killed_ends_as_if_it_had_not_been(
    workers: Workers, job: TrainingJob, tmp_path: Path
) -> None:
    long = replace(job, config=replace(CONFIG, steps=400, checkpoint_s=0.0, time_limit_s=1e6))
    outcomes: list[TrainingOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(workers.run(long, "netgpt-train-cut")))
    thread.start()
    wait_for("progress", 120, lambda: read_progress(Path(job.work_dir)))
    (killed,) = processes()
    killed.kill()
    thread.join(120)
    assert [process.pid for process in processes()] != [killed.pid]
    whole = run_job(replace(long, work_dir=str(tmp_path / "whole")))
    assert outcomes[0].weights == whole.weights, "the very bits"
    assert not long.checkpoints.exists()


def test_a_job_that_kills_its_worker_again_and_again_fails_its_round(
    workers: Workers, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_job, "RESTARTS", 0)
    thread, raised = in_background(workers, replace(job, config=ENDLESS))
    (killed,) = processes()
    killed.kill()
    thread.join(60)
    assert [type(why) for why in raised] == [EngineError]
    assert "netgpt-train-endless failed" in str(raised[0]) and "died" in str(raised[0])
    assert workers.run(job, "netgpt-train-3").figures["step"] == CONFIG.steps
    assert [process.pid for process in processes()] != [killed.pid]


def test_the_threads_that_compute_have_a_lower_priority(workers: Workers, job: TrainingJob) -> None:
    (worker,) = processes()
    before = {thread.id: thread.user_time for thread in worker.threads()}
    workers.run(replace(job, config=replace(CONFIG, steps=100)), "netgpt-train-4")
    spent = {thread.id: thread.user_time - before.get(thread.id, 0.0) for thread in worker.threads()}
    busiest = max(spent, key=lambda number: spent[number])
    hasty = sum(seconds for number, seconds in spent.items() if os.getpriority(os.PRIO_PROCESS, number) < LOWEST)
    assert spent[busiest] > 0.2 and os.getpriority(os.PRIO_PROCESS, busiest) == LOWEST
    assert hasty < spent[busiest] / 4, spent


def test_a_job_that_cannot_be_done_says_why(workers: Workers, job: TrainingJob, tmp_path: Path) -> None:
    broken = replace(job, base_dir=str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match=r"netgpt-train-broken failed: model directory .*nowhere"):
        workers.run(broken, "netgpt-train-broken")


def test_a_system_that_ends_cuts_a_round_off_and_leaves_no_worker(live: session.Session, job: TrainingJob) -> None:
    kept = Workers(Path(job.work_dir).parent / "workers")
    wait_for("end of the other worker", GONE_S, lambda: not processes())
    thread, raised = in_background(kept, replace(job, config=replace(CONFIG, steps=300)))
    assert len(processes()) == 1
    kept.stop()
    thread.join(10)
    assert [type(why) for why in raised] == [CancelledError], "no failure of the round, so nothing is logged as one"
    wait_for("end of the worker", 2 * GONE_S, lambda: not processes())
    with pytest.raises(CancelledError, match="stopped"):
        kept.run(job, "after the end")
    assert not processes()


def test_a_worker_that_hangs_ends_itself_and_says_so(live: session.Session, job: TrainingJob, tmp_path: Path) -> None:
    kept = Workers(tmp_path / "workers", Placement(timeout_s=3.0))
    with pytest.raises(EngineError, match="netgpt-train-slow failed: it took longer than 3 s"):
        kept.run(replace(job, config=ENDLESS), "netgpt-train-slow")
    kept.stop()


def test_two_workers_do_the_job_of_one_and_the_first_goes_on_alone(
    live: session.Session, job: TrainingJob, tmp_path: Path
) -> None:
    """Ray Train places them; they meet, part, and the first samples with vLLM, which wants a process group too."""
    both = replace(job, config=replace(CONFIG, policy_steps=1))
    kept = Workers(tmp_path / "workers", Placement(workers=2))
    outcomes: list[TrainingOutcome] = [kept.run(both, f"netgpt-train-two-{n}") for n in range(2)]
    kept.stop()
    alone = run_job(replace(job, work_dir=str(tmp_path / "alone")))
    for outcome in outcomes:
        assert outcome.figures["loss"] == pytest.approx(alone.figures["loss"], rel=1e-4)
        assert outcome.figures["policy_steps"] == 1
    wait_for("end of both workers", GONE_S, lambda: not processes())
