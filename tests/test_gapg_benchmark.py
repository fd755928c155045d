"""The GAPG benchmark's own arithmetic: the form of an answer, the cloud's fixed errors, and counting under a cap."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.figures import interval
from benchmarks.gapg.answers import MAX_NEW_TOKENS, Answers
from benchmarks.gapg.base import ASKS_AFTER_HIT, ASKS_AFTER_MISS, LEVELS, MOST_ATTEMPTS, lesson, teach
from benchmarks.gapg.capped import CAP, RATIOS, accuracy, allowed, first_come, lowest, topped_up
from benchmarks.gapg.cloud import WRONG, ask_cloud, cloud_right
from benchmarks.gapg.form import LARGEST, NO, YES, build_tokenizer, is_simple, steps
from benchmarks.gapg.knowing import hits, verdicts
from benchmarks.gapg.report import KEEP, kept_reading
from benchmarks.gapg.runs import METHODS, Spec
from benchmarks.gapg.systems import System, by_itself
from orchestrator.tasks.countdown import SHORT, Puzzle, is_formatted, is_solved, messages, puzzles
from orchestrator.tasks.generator import Split
from policies.help_marker import asks_for_help
from policies.score import FloatArray

TEST = list(itertools.islice(puzzles(0, Split.TEST, LEVELS), 2000))
exams = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n).map(np.array) for _ in range(3)])
)


def test_an_answer_survives_the_tokenizer_and_means_the_same_to_the_verifier() -> None:
    tokenizer, rng = build_tokenizer(), Random(0)
    solved = 0
    for puzzle in TEST[:300]:
        if not is_simple(puzzle.solution):
            continue
        text = lesson(rng, puzzle, may_ask=True).answer
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids and len(ids) < MAX_NEW_TOKENS
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
        assert asks_for_help(text) != is_formatted(text)
        assert hits(puzzle, text) == verdicts(text)
        assert is_solved(puzzle, text) == (verdicts(text)[-1] and not asks_for_help(text))
        solved += is_solved(puzzle, text)
    assert solved > 50


def test_a_prompt_has_no_unknown_token_and_says_whether_asking_is_allowed() -> None:
    tokenizer = build_tokenizer()
    for puzzle in TEST[:100]:
        asking, alone = (
            tokenizer.apply_chat_template(
                list(messages(puzzle, SHORT, may)), add_generation_prompt=True, tokenize=False
            )
            for may in (True, False)
        )
        ids = tokenizer(asking, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids and len(ids) < 30 and asking != alone


def test_lessons_try_something_else_only_after_a_failure_and_ask_only_where_they_may() -> None:
    lessons = list(itertools.islice(teach(0), 2000))
    asking = [one for one in lessons if SHORT.help in one.messages[0]["content"]]
    asked = [asks_for_help(one.answer) for one in lessons]
    assert sum(asked) == sum(asks_for_help(one.answer) for one in asking)
    for said, share in ((YES, ASKS_AFTER_HIT), (NO, ASKS_AFTER_MISS)):
        ended = [asks_for_help(one.answer) for one in asking if f"{said}</think>" in one.answer]
        assert abs(sum(ended) / len(ended) - share) < 0.08
    assert any(";" in one.answer for one in lessons)
    for one in lessons:
        target = one.messages[1]["content"].rsplit(" ", 1)[1]
        attempts = one.answer.removeprefix("<think>").partition("</think>")[0].split(";")
        assert 1 <= len(attempts) <= MOST_ATTEMPTS
        assert [attempt.endswith(YES) for attempt in attempts] == [f"={target}:" in attempt for attempt in attempts]
        # A random attempt may reach the target by luck; then it was not followed by design.
        assert not any(attempt.endswith(YES) for attempt in attempts[:-1])


def test_steps_are_exact_and_refuse_what_a_small_model_cannot_write() -> None:
    assert steps("(5 * 7) - 3") == ["5*7=35", "35-3=32"]
    assert steps("4 / (9 - 5)") == ["9-5=4", "4/4=1"]
    for wrong in ("3 - 7", "3 / 7", "25 * 25", "(3 / 7) * 7"):
        assert not is_simple(wrong), wrong
        with pytest.raises(ValueError, match=f"whole number from 0 to {LARGEST}"):
            steps(wrong)


def test_the_cloud_fails_on_a_fixed_share_whatever_the_order_of_the_numbers() -> None:
    right = cloud_right(TEST)
    answers = ask_cloud(TEST)
    assert [is_solved(puzzle, text) for puzzle, text in zip(TEST, answers, strict=True)] == right.tolist()
    distinct = {(tuple(sorted(p.numbers)), p.target): ok for p, ok in zip(TEST, right, strict=True)}
    assert abs(1 - np.mean(list(distinct.values())) - WRONG) < 0.02
    turned = [Puzzle(p.numbers[::-1], p.target, p.solution, p.split, p.level) for p in TEST]
    assert (cloud_right(turned) == right).all()


@settings(deadline=None)
@given(exams, st.floats(0, 1))
def test_a_cap_is_never_exceeded_and_serves_the_first_that_ask(
    exam: tuple[np.ndarray, ...],
    ratio: float,
) -> None:
    asked = exam[0]
    served = first_come(asked, ratio)
    assert served.sum() == min(asked.sum(), allowed(len(asked), ratio)) and not (served & ~asked).any()
    refused = np.flatnonzero(asked & ~served)
    assert not len(refused) or not served[refused[0] :].any()
    score: FloatArray = np.arange(len(asked), dtype=float)
    assert lowest(score, ratio).sum() == allowed(len(asked), ratio)
    more = topped_up(asked, score, ratio)
    assert (more | ~served).all() and more.sum() <= allowed(len(asked), ratio)
    assert more.sum() == allowed(len(asked), ratio) or asked[~more].all()


@settings(deadline=None)
@given(exams)
def test_a_curve_runs_from_the_device_alone_to_the_cloud(exam: tuple[np.ndarray, ...]) -> None:
    asked, solved, cloud = exam
    right = solved & ~asked
    none = np.zeros(len(asked))
    answers = Answers(right, asked, none, none, right | asked, right)
    score = np.linspace(0, 1, len(asked))
    scored = System(answers, cloud, lambda ratio: lowest(score, ratio))
    assert scored.at(RATIOS[0]).overall == pytest.approx(right.mean()) and RATIOS[-1] == 1.0
    assert scored.at(RATIOS[-1]).overall == pytest.approx(cloud.mean())
    asks = by_itself(answers, cloud)
    assert asks.at(0.0).overall == pytest.approx(right.mean())
    assert asks.at(1.0).overall == pytest.approx(np.where(asked, cloud, right).mean()) and asks.at(1.0).sent == asks.own
    values = [asks.with_second("forced").at(ratio).overall for ratio in RATIOS]
    assert all(second >= asks.at(ratio).overall for second, ratio in zip(values, RATIOS, strict=True))


def test_what_is_kept_counts_refused_requests_as_wrong() -> None:
    asked, right, cloud = (np.array(row, dtype=bool) for row in ([1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0]))
    found = accuracy(first_come(asked, CAP), right, cloud)
    assert (found.overall, found.conditional, found.local, found.sent) == (0.5, 1 / 3, 0.25, 0.25)
    assert allowed(1000, 0.3) == 300


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(-1, 1))
def test_an_interval_moves_with_its_values_and_holds_their_mean(values: list[float], shift: float) -> None:
    mean, low, high = interval(values)
    assert low <= mean + 1e-12 and mean <= high + 1e-12
    moved = interval([value + shift for value in values])
    assert moved == pytest.approx((mean + shift, low + shift, high + shift), abs=1e-9)


def test_three_seeds_have_students_interval_and_one_has_none() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.30265 / 3**0.5, 2.0 + 4.30265 / 3**0.5), abs=1e-4)
    assert math.isnan(interval([1.0])[1])


def test_answers_and_a_written_reading_survive_a_new_page() -> None:
    answers = Answers(*(np.array([True, False]),) * 2, *(np.array([-0.5, -0.25]),) * 2, *(np.array([False, True]),) * 2)
    again = Answers.from_json(answers.to_json())
    for name in Answers.__slots__:
        assert getattr(again, name).dtype == getattr(answers, name).dtype
        assert (getattr(again, name) == getattr(answers, name)).all()
    assert kept_reading(f"# Title\n\ntable\n\n{KEEP}\n\nIt is so.\n") == f"{KEEP}\n\nIt is so.\n"
    assert kept_reading("# Title\n") == ""


def test_only_a_model_that_may_ask_is_rewarded_for_it_and_every_run_has_its_own_file(tmp_path: Path) -> None:
    assert {name: Spec(name, 0).hierarchy.alpha_c > 0 for name in METHODS} == {
        name: name != "task" for name in ("task", "dr_grpo", "grpo", "gapg")
    }
    specs = [Spec(name, seed, alpha_c=alpha) for name in METHODS for seed in (0, 1) for alpha in (0.2, 0.3)]
    assert len({spec.file(tmp_path / "base", tmp_path) for spec in specs}) == len(specs)
    assert Spec("gapg", 0).file(tmp_path / "other", tmp_path) != Spec("gapg", 0).file(tmp_path / "base", tmp_path)


WRONG_TWICE = "<think>5+7=12,12-3=9:yes;5*7=35,35-3=32:no</think><answer>(5*7)-3</answer>"


def test_an_attempt_hits_when_its_last_result_is_the_target() -> None:
    puzzle = Puzzle((5, 7, 3), 32, "(5 * 7) - 3", Split.TRAIN, LEVELS[0])
    assert hits(puzzle, WRONG_TWICE) == [False, True]
    assert verdicts(WRONG_TWICE) == [True, False]
    assert hits(puzzle, "<think>5+7=12,12-3=132:no</think>") == [False] and hits(puzzle, "") == [False]
