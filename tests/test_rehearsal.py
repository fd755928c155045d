"""What a round keeps: the model's own right answers, by a tiny model and by the bundled one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import tiny_model_dir

from actors.evaluator import Evaluator
from actors.rehearsal import rehearsed
from actors.training import Draft, Sample, TrainConfig
from orchestrator.bundled.train import MODELS
from orchestrator.tasks.generator import Split, Task, tasks
from orchestrator.tasks.verify import is_correct
from policies.help_marker import HELP
from policies.toolcalls import parse

CONFIG = TrainConfig(max_new_tokens=160)


def question(task: Task, answer: str = "") -> Sample:
    return Sample(task.messages, task.tools, answer)


@pytest.fixture(scope="module")
def asked() -> list[Task]:
    return list(itertools.islice(tasks(5, Split.TEST), 60))


def test_without_the_clouds_word_the_score_decides_and_is_seldom_wrong(asked: list[Task]) -> None:
    kept = rehearsed(MODELS / "edge", [question(task) for task in asked], CONFIG)
    known = {str(task.messages): task for task in asked}
    right = [is_correct(known[str(sample.messages)], parse(sample.answer).calls) for sample in kept]
    assert 20 < len(kept) < 60 and sum(right) >= 0.95 * len(kept)


def test_the_clouds_word_decides_where_it_is_known(asked: list[Task]) -> None:
    drafts = Evaluator(MODELS / "edge", CONFIG).answer([question(task) for task in asked])
    said = [draft.text for draft in drafts if draft is not None]
    assert len(said) == len(asked)
    told = [
        question(task, text if n % 2 else "no such thing")
        for n, (task, text) in enumerate(zip(asked, said, strict=True))
    ]
    kept = rehearsed(MODELS / "edge", told, CONFIG)
    readable = [text for n, text in enumerate(said) if n % 2 and not parse(text).error]
    assert [sample.answer for sample in kept] == readable


def test_an_answer_that_asks_for_help_is_not_kept_even_where_the_cloud_said_the_same(
    asked: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"{asked[0].text} {HELP}"
    monkeypatch.setattr(Evaluator, "answer", lambda self, samples: [Draft(said, (-0.01,))] * len(samples))
    for answer in ("", asked[0].text, said):
        assert rehearsed(MODELS / "edge", [question(asked[0], answer)], CONFIG) == []


def test_a_model_that_knows_nothing_keeps_nothing(tmp_path: Path, asked: list[Task]) -> None:
    assert rehearsed(tiny_model_dir(tmp_path / "base"), [question(task) for task in asked], CONFIG) == []
    assert rehearsed(tmp_path / "nowhere", [], CONFIG) == []


def test_the_rest_of_a_question_stays(asked: list[Task]) -> None:
    heavy = [replace(question(task), weight=3.0) for task in asked[:10]]
    assert {sample.weight for sample in rehearsed(MODELS / "edge", heavy, CONFIG)} == {3.0}
