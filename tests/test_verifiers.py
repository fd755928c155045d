"""Verifiers by name: the bundled ones, and a user's own with errors that say what to do."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orchestrator.tasks.countdown import puzzles
from orchestrator.tasks.generator import Split, tasks
from orchestrator.verifiers import VERIFIERS, load_verifier
from policies.errors import BadConfig
from policies.toolcalls import render

OWN = """
LIMIT = 3
def short(task, text): return len(text) < LIMIT
def graded(task, text): return 0.7
def lonely(text): return True
def with_more(task, text, strict=False): return not strict
class Exact:
    def __call__(self, task, text): return task == text
exact = Exact()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_checks.py").write_text(OWN)
    (tmp_path / "broken_checks.py").write_text("1 / 0")
    (tmp_path / "needy_checks.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_tool_tasks_verifier_accepts_their_answers_and_nothing_else() -> None:
    verify = load_verifier("tools")
    for task in itertools.islice(tasks(0, Split.TEST), 50):
        assert verify(task, task.text) and verify(task, task.text + " done")
        assert not verify(task, task.text + render(task.answer[:1]))
        assert not verify(task, task.text[:-1]) and not verify(task, "") and not verify(task, "prose")


def test_the_countdown_verifier_accepts_a_solution() -> None:
    puzzle = next(puzzles(0, Split.TRAIN))
    assert load_verifier("countdown")(puzzle, puzzle.solution)
    assert not load_verifier("countdown")(puzzle, f"{puzzle.solution} + 1")


@pytest.mark.usefixtures("own")
def test_a_users_own_function_or_callable_object_is_loaded_by_its_dotted_name() -> None:
    assert load_verifier("own_checks.short")(None, "ab") and not load_verifier("own_checks.short")(None, "abc")
    assert load_verifier("own_checks.with_more")(None, "")
    assert load_verifier("own_checks.exact")("a", "a") and not load_verifier("own_checks.exact")("a", "b")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong", "use one of tools, countdown, or package.module.function"),
        ("", "use one of"),
        (".x", "use one of"),
        ("own_checks.", "use one of"),
        ("..own_checks.short", "importing"),
        ("no_such_module.verify", "No module named 'no_such_module'.*PYTHONPATH"),
        ("needy_checks.verify", "No module named 'not_installed_anywhere'"),
        ("broken_checks.verify", "importing broken_checks failed: ZeroDivisionError"),
        ("own_checks.missing", "own_checks has no function 'missing'"),
        ("own_checks.LIMIT", "own_checks has no function 'LIMIT'"),
        ("own_checks.lonely", r"must take \(task, text\)"),
    ],
)
def test_a_verifier_that_cannot_be_used_is_refused_with_its_name_and_the_fix(name: str, words: str) -> None:
    with pytest.raises(BadConfig, match=words) as error:
        load_verifier(name)
    assert repr(name) in str(error.value)


@pytest.mark.usefixtures("own")
def test_a_verdict_that_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"own_checks.graded.*True or False, got 0.7"):
        load_verifier("own_checks.graded")(None, "")


def test_the_bundled_names_need_no_dot() -> None:
    assert all("." not in name and load_verifier(name) is verifier for name, verifier in VERIFIERS.items())
