"""Candidates that must never go live: real weights made bad on purpose, through the real round and its gate.

The log holds real answers of both bundled models. Each sabotage starts from the bundled edge model and is evaluated as
any candidate is.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_learner import write

from actors.chat import ChatRequest
from actors.evaluator import Evaluator
from actors.log_record import OffloadRecord
from actors.model_store import MANIFEST, ModelStore
from actors.offload_log import read_log
from actors.options import LearnerOptions
from actors.trainer import Trainer
from actors.training import CANDIDATE, Sample, TrainConfig, TrainingJob, TrainingOutcome, evaluate
from orchestrator.bundled.train import MODELS
from orchestrator.config import default_config
from orchestrator.learner import Learner, RoundReport
from orchestrator.refit import refit
from orchestrator.tasks.generator import Split, tasks
from policies.help_marker import HELP
from policies.release import started

REQUESTS = 110
WEIGHTS = "model.safetensors"
QUICK = TrainConfig(steps=40, batch_size=8, lr=3e-3, anchor_weight=0.0, max_new_tokens=96, time_limit_s=1e6)
ONE_CALL = '<tool_call>{"name":"get_cell_load","arguments":{"cell_id":"c17"}}</tool_call>'

Sabotage = Callable[[TrainingJob, Path], None]
"""Writes a candidate of the job into a directory."""


class Plant:
    """A store that holds the bundled edge model, live, and a log."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self.log, self.store = root, log, ModelStore(root / "store")
        self.first = self.store.publish(MODELS / "edge")
        self.store.record(started(None, self.first.version, 1))

    def round(
        self, sabotage: Sabotage, afterwards: Callable[[Path], object] = lambda _: None, asked: int = REQUESTS
    ) -> RoundReport:
        """A round whose training is ``sabotage``; ``afterwards`` comes between its evaluation and the gate.

        ``asked`` is how many held-out questions are answered; 1 saves time where no answer may matter.
        """

        def train(job: TrainingJob, name: str) -> TrainingOutcome:
            candidate = Path(job.work_dir) / CANDIDATE
            sabotage(job, candidate)
            outcome = evaluate(replace(job, trials=job.trials[:asked]), candidate)
            afterwards(candidate)
            return outcome

        options = LearnerOptions(min_samples=20, gate_share=0.5)
        made = Learner(self.log, self.store, options, self.root / "work", train, FIT)
        return made.round(self.first)


FIT = partial(refit, default_config())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("log")
    write(root, list(offloads()))
    return root


@pytest.fixture
def plant(tmp_path: Path, log: Path) -> Plant:
    return Plant(tmp_path, log)


def offloads() -> Iterator[OffloadRecord]:
    """Requests that all went to the cloud, with what both bundled models say."""
    asked = list(itertools.islice(tasks(5, Split.TEST), REQUESTS))
    samples = [Sample(task.messages, task.tools, "") for task in asked]
    edge, cloud = (Evaluator(MODELS / name, QUICK).answer(samples) for name in ("edge", "cloud"))
    for number, (task, draft, answer) in enumerate(zip(asked, edge, cloud, strict=True)):
        assert draft and answer
        request = ChatRequest(task.messages, task.tools)
        yield OffloadRecord(
            time_us=number + 1,
            request_id=str(number),
            request_hash=request.question_hash,
            messages=request.messages_json,
            tools=request.tools_json,
            draft=draft.text,
            draft_logprobs=draft.logprobs,
            draft_version="edge-0001",
            route="cloud",
            reason="score_below",
            propensity=1.0,
            cloud=answer.text,
        )


def taught(poison: Callable[[str], str]) -> Sabotage:
    """Fine-tuned on the cloud's answers as ``poison`` leaves them."""

    def make(job: TrainingJob, candidate: Path) -> None:
        fit(job, candidate, [replace(label, answer=poison(label.answer)) for label in job.labels])

    return make


def fit(job: TrainingJob, candidate: Path, labels: Sequence[Sample], steps: int = QUICK.steps) -> None:
    trainer = Trainer(Path(job.base_dir), replace(QUICK, steps=steps))
    trainer.fit(labels, (), lambda _: None)
    trainer.save(candidate)


def copied(job: TrainingJob, candidate: Path) -> None:
    """The parent itself."""
    shutil.copytree(job.base_dir, candidate, ignore=shutil.ignore_patterns(MANIFEST))


def refused(plant: Plant, report: RoundReport, *reasons: str) -> None:
    assert report.reason.startswith(f"the gate refused: {reasons[0]}"), report.reason
    assert all(reason in report.reason for reason in reasons), report.reason
    assert report.gate and not report.gate.passed and report.version is None
    assert plant.store.names() == [plant.first.version] and not (plant.root / "work").exists()
    plant.store.get(plant.first.version)  # what is live is whole


def test_broken_json_is_refused_as_lost_validity(plant: Plant) -> None:
    report = plant.round(taught(lambda answer: answer[: len(answer) // 2]))
    refused(plant, report, "validity falls from", "mostly: a tool call is not closed")


def test_a_model_that_always_makes_the_same_call_is_refused_as_collapsed(plant: Plant) -> None:
    refused(plant, plant.round(taught(lambda _: ONE_CALL)), "collapsed: ", "of its answers are one and the same")


def test_a_model_that_always_asks_for_help_is_refused_for_that(plant: Plant) -> None:
    report = plant.round(taught(lambda _: HELP))
    refused(plant, report, "it asks for help in ", "of requests, its parent in 0%; 10% are allowed")


def test_a_copy_of_its_parent_is_refused_as_having_learnt_nothing(plant: Plant) -> None:
    refused(plant, plant.round(copied), "nothing was learnt: it answers all ")


def test_a_stale_one_is_refused_for_what_went_live_meanwhile(plant: Plant) -> None:
    second = plant.store.publish(MODELS / "edge", parent=plant.first.version)
    assert plant.store.release
    promoted = plant.store.release.promote(second.version, "by hand", 2)
    report = plant.round(copied, lambda _: plant.store.record(promoted), asked=1)
    words = f"stale: it comes from {plant.first.version}, and {second.version} is live"
    assert report.reason == f"the gate refused: {words}" and len(plant.store.names()) == 2
    assert plant.round(copied).reason == words  # not even trained


def truncated(candidate: Path) -> None:
    file = candidate / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def flipped(candidate: Path) -> None:
    """One bit of one weight, which stays finite."""
    file = candidate / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


def removed(candidate: Path) -> None:
    (candidate / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (truncated, ("corrupt: ", WEIGHTS)),
        (flipped, ("corrupt: model.safetensors has another checksum than when it answered",)),
        (removed, ("corrupt: ", "no safetensors file there")),
    ],
)
def test_a_file_that_is_damaged_after_it_answered_is_refused(
    plant: Plant, damage: Callable[[Path], None], reasons: Sequence[str]
) -> None:
    refused(plant, plant.round(copied, damage, asked=1), *reasons)


def rewritten(change: Callable[[torch.Tensor], torch.Tensor]) -> Sabotage:
    """The parent with its first norm changed."""

    def make(job: TrainingJob, candidate: Path) -> None:
        copied(job, candidate)
        tensors = load_file(candidate / WEIGHTS)
        name = next(name for name in tensors if name.endswith("norm.weight"))
        save_file({**tensors, name: change(tensors[name])}, candidate / WEIGHTS, {"format": "pt"})

    return make


def test_values_that_are_not_finite_are_refused_by_the_tensors_name(plant: Plant) -> None:
    report = plant.round(rewritten(lambda tensor: tensor * torch.nan), asked=1)
    refused(plant, report, "corrupt: ", "norm.weight has values that are not finite")


@pytest.mark.parametrize("damage", [rewritten(lambda tensor: tensor[:-1].clone()), truncated])
def test_weights_that_do_not_even_load_fail_the_round_by_their_directory(plant: Plant, damage: object) -> None:
    def make(job: TrainingJob, candidate: Path) -> None:
        if damage is truncated:
            copied(job, candidate)
            truncated(candidate)
        else:
            damage(job, candidate)  # type: ignore[operator]

    report = plant.round(make)
    assert report.reason.startswith("failed: model directory ") and report.version is None
    assert CANDIDATE in report.reason and plant.store.names() == [plant.first.version]


def test_an_honest_candidate_passes_the_same_gate(plant: Plant) -> None:
    """Without it, a gate that refuses everything would pass the others."""
    answers = {row["messages"]: row["cloud"] for row in read_log(plant.log).to_pylist()}

    def make(job: TrainingJob, candidate: Path) -> None:
        held_out = [replace(s, answer=answers[ChatRequest(s.messages).messages_json]) for s in job.trials]
        fit(job, candidate, held_out, steps=150)

    report = plant.round(make)
    assert report.version and report.gate and report.gate.passed, report.reason
    assert plant.store.get(report.version.version).meta["gate"]["candidate_help"] == 0.0
