"""The learner: what it takes from the log, what it refuses, and a round that makes a model better."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_model_dir

from actors.log_record import OffloadRecord
from actors.model_store import ModelStore
from actors.offload_log import OffloadLog
from actors.options import LearnerOptions
from actors.scorer import Scorer
from actors.training import CANDIDATE, Draft, Sample, TrainConfig, TrainingJob, TrainingOutcome, run_job
from orchestrator.config import default_config
from orchestrator.learner import Learner, RoundReport
from orchestrator.lessons import held_out, lessons
from orchestrator.refit import refit
from orchestrator.verdict import Answered, answered, scorer, trial
from policies.calibration import Calibrator
from policies.errors import EngineError
from policies.gate import gains
from policies.help_marker import HELP
from policies.score import features

TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "move",
                "parameters": {"type": "object", "properties": {"to": {"enum": ["a", "b"]}}, "required": ["to"]},
            },
        }
    ]
)
OPTIONS = LearnerOptions(min_samples=20, steps=60, batch_size=8, lr=5e-3, drift_cap=50.0)
REFIT = partial(refit, default_config())


def call(place: str) -> str:
    return f'<tool_call>{{"name":"move","arguments":{{"to":"{place}"}}}}</tool_call>'


def record(number: int, **changes: object) -> OffloadRecord:
    """An offload whose draft was wrong: slice ``number`` belongs in b, and the draft said a."""
    text = f"put slice {number} in b"
    plain = OffloadRecord(
        time_us=number + 1,
        request_id=str(number),
        request_hash=text,
        messages=json.dumps([{"role": "user", "content": text}]),
        tools=TOOLS,
        draft=call("a"),
        draft_logprobs=(-0.2, -1.0),
        draft_version="v",
        score=0.3,
        threshold=0.6,
        route="cloud",
        reason="score_below",
        propensity=1.0,
        cloud=call("b"),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def accepted(number: int, **changes: object) -> OffloadRecord:
    """A draft that was served, not audited."""
    return record(number, **{"route": "edge", "propensity": 0.05, "cloud": None, "score": 0.9, **changes})


def write(root: Path, records: Sequence[OffloadRecord]) -> None:
    log = OffloadLog(root, "a")
    for one in records:
        log.append(one)
    log.close()


# ---- from records to lessons


def test_a_question_never_lies_on_both_sides_of_the_split() -> None:
    records = [record(n % 50, time_us=n) for n in range(200)]
    found = lessons(records, "v", 0.3)
    questions = [{str(s.messages) for s in side} for side in (found.labels, found.trials)]
    assert questions[0] and questions[1] and not questions[0] & questions[1]
    assert len(found.labels) + len(found.trials) == found.labelled == 200


def test_the_share_of_the_gate_is_about_what_was_asked_for() -> None:
    assert sum(held_out(str(n), 0.3) for n in range(2000)) == pytest.approx(600, abs=60)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cloud": "<tool_call>{"}, "answer unparsable"),
        ({"cloud": ""}, "answer fails the tools"),
        ({"cloud": call("c")}, "answer fails the tools"),
        ({"cloud": "no call", "tool_choice": '"required"'}, "answer fails the tools"),
        ({"cloud": "x" * 9000}, "answer too long"),
        ({"cloud": HELP}, "answer asks for help"),
        ({"cloud": call("b"), "propensity": 0.0}, "label without propensity"),
        ({"messages": "{"}, "question unreadable"),
        ({"messages": '"text"'}, "question unreadable"),
        ({"tools": '[{"function": 1}]'}, "question unreadable"),
        ({"tools": '[{"function": {"name": "f", "parameters": {"type": 7}}}]'}, "question unreadable"),
    ],
)
def test_poisoned_records_are_skipped_and_counted(changes: dict[str, object], why: str) -> None:
    found = lessons([record(1), record(2, **changes)], "v", 0.5)
    assert found.poisoned == {why: 1} and found.labelled == 1


def test_an_audit_weighs_more_than_an_offload_up_to_a_cap() -> None:
    found = lessons([record(1), record(2, propensity=0.5), record(3, propensity=0.01)], "v", 1e-9)
    weights = [sample.weight for sample in found.labels]
    assert [weight / weights[0] for weight in weights] == pytest.approx([1.0, 2.0, 4.0])


def test_the_label_is_the_clouds_meaning_in_the_edges_spelling() -> None:
    spaced = '<tool_call> {"arguments": {"to": "b"}, "name": "move"} </tool_call>'
    found = lessons([record(1, cloud=spaced), record(2, cloud="Just words.")], "v", 1e-9)
    assert [sample.answer for sample in found.labels] == [call("b"), "Just words."]


def test_all_questions_of_the_training_side_are_asked_again_with_the_clouds_word_where_it_is_known() -> None:
    found = lessons([record(1), accepted(2), accepted(3, draft_version="older")], "v", 1e-9)
    assert [sample.answer for sample in found.questions] == [call("b"), "", ""]


def test_records_that_could_never_have_had_a_label_are_not_on_trial() -> None:
    cut_off = accepted(1, propensity=0.0)
    failed = record(2, cloud=None, cloud_error="refused")
    assert len(lessons([cut_off, failed, accepted(3), record(4)], "v", 1 - 1e-9).trials) == 2


@pytest.mark.parametrize("said", [HELP, f"I do not know. {HELP}", f"{call('b')} {HELP}"])
def test_an_answer_that_asks_for_help_is_no_flaw_and_is_neither_served_nor_right_as_in_serving(said: str) -> None:
    (case,) = lessons([record(1)], "v", 1 - 1e-9).trials
    assert case.right(call("b")) and case.flaw(said) is None
    assert not case.valid(said) and not case.right(said)
    asks = Answered(case, Draft(call("b"), (-0.1,)), Draft(said, (-0.1,)), 0.5)
    assert not asks.same and asks.right == 0.0
    both = trial([asks, replace(asks, candidate=asks.base)], 0.1)
    assert both.candidate.help.tolist() == [True, False] and both.candidate.valid.all()


# ---- from answers to a verdict


def judged(records: Sequence[OffloadRecord], base: str, candidate: str) -> tuple[np.ndarray, Calibrator]:
    cases = lessons(records, "v", 1 - 1e-9).trials
    before, after = ([Draft(text, (-0.1, -0.2))] * len(cases) for text in (base, candidate))
    rows = answered(cases, TrainingOutcome("", before, after, 0.1), Scorer(PARENT))
    return gains(trial(rows, 0.1), 20.0), scorer(rows, Scorer(PARENT)).calibrator


PARENT = replace(Calibrator.guess(), samples=100)
BELIEF = math.exp(-0.3)  # what PARENT says of two tokens at -0.1 and -0.2


def test_silence_never_speaks_for_the_candidate() -> None:
    agrees, _ = judged([accepted(1)], call("a"), call("a"))
    differs, _ = judged([accepted(1)], call("a"), call("b"))
    assert agrees.tolist() == [0.0] and differs == pytest.approx([-BELIEF], abs=1e-3)


def test_an_audit_that_speaks_for_the_candidate_outweighs_the_assumption() -> None:
    values, _ = judged([accepted(1, cloud=call("b"))], call("a"), call("b"))
    assert values == pytest.approx([-BELIEF + 20 * (1 + BELIEF)], abs=0.05)


def test_calibration_believes_the_cloud_and_in_silence_the_parent() -> None:
    draft = Draft("", (-0.1, -0.2))
    scores: dict[str, float] = {}
    for name, records, text in (
        ("right", [record(n) for n in range(80)], call("b")),
        ("wrong", [record(n) for n in range(80)], call("a")),
        ("silent", [accepted(n) for n in range(80)], call("a")),
        ("changed", [accepted(n) for n in range(80)], call("b")),
    ):
        _, fitted = judged(records, call("a"), text)
        scores[name] = float(fitted.predict(features(draft.logprobs)))
    assert scores["right"] > 0.93 and scores["wrong"] < 0.1
    assert scores["silent"] == pytest.approx(BELIEF, abs=0.01) and scores["changed"] < 0.3


def test_an_invalid_draft_teaches_the_calibrator_nothing() -> None:
    _, fitted = judged([record(n) for n in range(30)], call("a"), "<tool_call>")
    assert fitted == PARENT


# ---- rounds


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_model_dir(tmp_path_factory.mktemp("edge"))
    (directory / "calibrator.json").write_text(PARENT.to_json())
    return directory


@pytest.fixture
def store(tmp_path: Path, model: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    store.publish(model)
    return store


def scripted(candidate: str) -> Callable[[TrainingJob, str], TrainingOutcome]:
    """A job that trains nothing and says that the candidate answers ``candidate``, the base ``a``."""

    def train(job: TrainingJob, name: str) -> TrainingOutcome:
        directory = Path(job.work_dir) / CANDIDATE
        shutil.copytree(job.base_dir, directory, ignore=shutil.ignore_patterns("MANIFEST.json"))
        before, after = ([Draft(text, (-0.1,))] * len(job.trials) for text in (call("a"), candidate))
        return TrainingOutcome(str(directory), before, after, 0.1, {"nll": 0.5})

    return train


def run(tmp_path: Path, store: ModelStore, train: object, count: int = 100, **options: object) -> RoundReport:
    write(tmp_path / "log", [record(n) for n in range(count)])
    chosen = OPTIONS.model_copy(update=options)
    return Learner(tmp_path / "log", store, chosen, tmp_path / "work", train, REFIT).round()  # type: ignore[arg-type]


def test_a_better_candidate_is_published_with_calibrator_parent_and_lineage(tmp_path: Path, store: ModelStore) -> None:
    report = run(tmp_path, store, scripted(call("b")))
    assert report.version and report.version == store.latest() and report.gate and report.gate.passed
    version = store.get(report.version.version)
    assert version.number == 2 and version.parent == store.list()[0].version
    assert version.meta["log"] == {"a": [0, 99]} and version.meta["samples"] == report.samples
    assert Scorer.load(version.path).calibrator != PARENT
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (call("a"), "nothing was learnt"),
        ("<tool_call>", "validity falls from 1.000 to 0.000, mostly: a tool call is not closed"),
    ],
)
def test_a_candidate_that_is_not_better_is_dropped_with_the_reason(
    tmp_path: Path, store: ModelStore, candidate: str, why: str
) -> None:
    report = run(tmp_path, store, scripted(candidate))
    assert report.version is None and report.reason.startswith("the gate refused") and why in report.reason
    assert len(store.list()) == 1


def test_too_few_records_are_a_reason_and_not_an_error(tmp_path: Path, store: ModelStore) -> None:
    report = run(tmp_path, store, scripted(call("b")), count=5)
    assert report.reason == "5 labelled records, 20 are needed" and report.version is None
    write(tmp_path / "log", [record(n, cloud="<tool_call>") for n in range(3)])
    again = Learner(tmp_path / "log", store, OPTIONS, tmp_path / "work", scripted(""), REFIT).round()
    assert again.reason.endswith("(skipped: 3 answer unparsable)")


def test_an_empty_store_or_log_is_a_reason(tmp_path: Path, store: ModelStore) -> None:
    empty = ModelStore(tmp_path / "empty")
    assert "no edge version" in run(tmp_path, empty, scripted("")).reason
    report = Learner(tmp_path / "nothing", store, OPTIONS, tmp_path / "work", scripted(""), REFIT).round()
    assert report.reason.startswith("0 labelled records")


def test_a_round_that_the_end_of_the_system_cuts_off_is_no_failure(
    tmp_path: Path, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    def train(job: TrainingJob, name: str) -> TrainingOutcome:
        raise CancelledError("the workers were stopped")

    report = run(tmp_path, store, train)
    assert report.reason == "cut off: the workers were stopped" and report.version is None
    assert not [said for said in caplog.records if said.exc_info]


def test_a_job_that_fails_leaves_everything_as_it_was(tmp_path: Path, store: ModelStore) -> None:
    def failing(job: TrainingJob, name: str) -> TrainingOutcome:
        job.save()
        raise EngineError("the worker died")

    report = run(tmp_path, store, failing)
    assert report.reason == "failed: the worker died" and len(store.list()) == 1
    assert not (tmp_path / "work").exists()


def test_nothing_is_trained_from_damaged_weights(tmp_path: Path, store: ModelStore) -> None:
    parent = store.latest()
    assert parent
    (parent.path / "model.safetensors").write_bytes(b"rotten")
    assert "fails its checksum" in run(tmp_path, store, scripted(call("b"))).reason


def test_a_round_reads_a_log_that_is_being_written(tmp_path: Path, store: ModelStore) -> None:
    log = OffloadLog(tmp_path / "log", "live", segment_records=16)
    for n in range(100):
        log.append(record(n))
    log.flush()
    report = Learner(tmp_path / "log", store, OPTIONS, tmp_path / "work", scripted(call("b")), REFIT).round()
    log.close()
    assert report.version and report.version.meta["log"] == {"live": [0, 99]}


def test_a_real_round_makes_the_model_answer_as_the_cloud_does(tmp_path: Path, store: ModelStore) -> None:
    report = run(tmp_path, store, lambda job, name: run_job(job))
    assert report.version, report.reason
    assert report.gate and report.gate.figures["gain"] > 0.9
    later = TrainingJob(str(report.version.path), str(tmp_path / "w2"), [], trials=[_question(900)])
    (draft,) = _answers(later)
    assert draft and draft.text == call("b")
    assert Scorer.load(report.version.path).calibrator.predict(features(draft.logprobs)) > 0.7


def _question(number: int) -> Sample:
    case = lessons([record(number)], "v", 1e-9).labels[0]
    return Sample(case.messages, case.tools, "")


def _answers(job: TrainingJob) -> Sequence[Draft | None]:
    from actors.evaluator import Evaluator

    return Evaluator(Path(job.base_dir), TrainConfig(max_new_tokens=32)).answer(job.trials)


@pytest.fixture
def ray_session() -> Iterator[None]:
    import ray

    roots = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    os.environ.setdefault("RAY_AUTH_TOKEN", "learner-tests")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="netgpt",
        _temp_dir="/tmp/ray_learn",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(roots)}},
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own deprecations, in this process
def test_a_round_as_a_ray_train_job_publishes_and_a_broken_job_says_why(
    tmp_path: Path, store: ModelStore, ray_session: None
) -> None:
    from cluster.train_job import Workers

    workers = Workers(tmp_path / "workers")
    report = run(tmp_path, store, workers.run)
    assert report.version and report.version.meta["training"]["step"] == OPTIONS.steps, report.reason
    job = TrainingJob(str(tmp_path / "nowhere"), str(tmp_path / "work2"), [_question(1)])
    with pytest.raises(EngineError, match=r"netgpt-train-broken failed: model directory .*nowhere"):
        workers.run(job, "netgpt-train-broken")
    workers.stop()
