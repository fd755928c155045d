"""Countdown: reproducible, split without leaks, and judged without evaluating code."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from orchestrator import bundled
from orchestrator.tasks.countdown import (
    LEVELS,
    REASONING,
    SHORT,
    Level,
    Puzzle,
    is_formatted,
    is_solved,
    messages,
    puzzles,
    solves,
)
from orchestrator.tasks.generator import Split
from policies.help_marker import HELP, asks_for_help

PUZZLE = Puzzle((3, 7, 12), 15, "(12 - 7) * 3", Split.TRAIN, Level(3, 25, 100))


def draw(seed: int, split: Split, count: int) -> list[Puzzle]:
    return list(itertools.islice(puzzles(seed, split), count))


def identity(puzzle: Puzzle) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(puzzle.numbers)), puzzle.target


def test_puzzles_are_solved_by_their_own_solutions_and_within_their_level() -> None:
    for puzzle in draw(0, Split.TRAIN, 400):
        assert solves(puzzle, puzzle.solution), puzzle
        assert len(puzzle.numbers) == puzzle.level.numbers
        assert max(puzzle.numbers) <= puzzle.level.highest and 1 <= puzzle.target <= puzzle.level.limit


def test_a_seed_always_gives_the_same_puzzles_of_every_level() -> None:
    assert draw(3, Split.TEST, 50) == draw(3, Split.TEST, 50) != draw(4, Split.TEST, 50)
    seen = Counter(puzzle.level for puzzle in draw(0, Split.TRAIN, 400))
    assert set(seen) == set(LEVELS) and min(seen.values()) > 60


def test_no_puzzle_is_in_both_splits_whatever_the_seeds_and_the_order_of_its_numbers() -> None:
    train = {identity(p) for seed in range(5) for p in draw(seed, Split.TRAIN, 1000)}
    test = {identity(p) for seed in range(5, 8) for p in draw(seed, Split.TEST, 500)}
    assert not train & test and len(train) > 1000 and len(test) > 200


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("12 / 4 * (6 - 2) + 2", False),  # a 2 too many
        ("12 / 4 * 6 - 2", True),
        (" (12/4) * 6\n- 2 ", True),
        ("6 * 12 / 4 - 2", True),
        ("12 + 4", True),
        ("16", False),
        ("12 / 4 * 6 - 2 = 16", False),
        ("6 - -12 - 4 + 2", False),  # + - * / between numbers only
        ("12 / (6 - 4 - 2)", False),
        ("2 ** 4", False),
        ("12 // 4 * 6 - 2", False),
        ("12 / 4 * 6 - 2 # and more", False),
        ("1_2 / 4 * 6 - 2", False),
        ("0xc / 4 * 6 - 2", False),
        ("12(4)", False),
        ("", False),
        ("__import__('os')", False),
        ("9**9**9", False),
        ("(" * 5000, False),
        ("(" * 199, False),
        ("-" * 199, False),
        ("12 + 4" + " " * 500, False),
        ("١٢ + 4", False),
    ],
)
def test_an_expression_is_right_only_if_it_is_exact_and_uses_each_number_once(expression: str, right: bool) -> None:
    numbers = (12, 4) if expression.strip().startswith("12 + 4") else (12, 4, 6, 2)
    assert solves(Puzzle(numbers, 16, "", Split.TRAIN, LEVELS[0]), expression) == right


def test_arithmetic_is_exact() -> None:
    thirds = Puzzle((1, 3, 3), 1, "1 / 3 * 3", Split.TRAIN, LEVELS[1])
    assert solves(thirds, "1 / 3 * 3") and not solves(thirds, "1 / 3")
    tenth = Puzzle((1, 49, 49), 1, "", Split.TRAIN, LEVELS[1])
    assert solves(tenth, "1 / 49 * 49") and 1 / 49 * 49 != 1  # floating point would refuse it
    near = Puzzle((10**16, 1, 10**16), 1, "", Split.TRAIN, LEVELS[1])
    assert solves(near, f"{10**16} + 1 - {10**16}")


@given(st.text(alphabet="0123456789+-*/() \n", max_size=60))
def test_whatever_is_written_the_verdict_is_that_of_exact_evaluation(text: str) -> None:
    puzzle = Puzzle((1, 2), 3, "1 + 2", Split.TRAIN, LEVELS[0])
    if solves(puzzle, text):
        assert eval(" ".join(text.split()), {"__builtins__": {}}) == Fraction(3)
        assert sorted(c for c in text if c.isdigit()) == ["1", "2"]


@given(st.text(max_size=300))
def test_no_text_makes_the_verifier_raise(text: str) -> None:
    assert not is_solved(PUZZLE, text)
    assert not is_formatted(text)


def test_the_answer_is_the_last_answer_tag_or_the_whole_text() -> None:
    assert is_solved(PUZZLE, "(12 - 7) * 3")
    assert is_solved(PUZZLE, "<think> 12 - 7 is 5 </think> <answer> (12 - 7) * 3 </answer>")
    assert is_solved(PUZZLE, "<answer> 12 + 3 </answer> no: <answer>(12 - 7) * 3</answer>")
    assert not is_solved(PUZZLE, "<answer>(12 - 7) * 3</answer> or <answer> 12 + 3 </answer>")
    assert not is_solved(PUZZLE, "it is (12 - 7) * 3")
    assert not is_solved(PUZZLE, "<answer>(12 - 7) * 3")
    assert not is_solved(PUZZLE, HELP)


def test_the_form_is_one_thought_then_one_answer() -> None:
    assert is_formatted("<think> a\nb </think>\n<answer> 1 + 2 </answer>\n")
    for text in (
        "<answer> 1 + 2 </answer>",
        "<think> a </think> 1 + 2",
        "so: <think> a </think> <answer> 1 + 2 </answer>",
        "<think> a </think> <answer> 1 </answer> <answer> 2 </answer>",
        "<think> a </think> b </think> <answer> 1 </answer>",
        "<think> a </think> " + HELP,
    ):
        assert not is_formatted(text), text


def test_both_forms_name_the_numbers_and_the_target_and_offer_help_only_where_it_may_be_asked_for() -> None:
    for template in (REASONING, SHORT):
        system, user = messages(PUZZLE, template, may_ask=True)
        assert all(str(number) in user["content"] for number in (3, 7, 12, 15))
        alone, same = messages(PUZZLE, template, may_ask=False)
        assert same == user and system["content"].startswith(alone["content"]) and system != alone
    assert HELP in messages(PUZZLE, REASONING, may_ask=True)[0]["content"]
    assert asks_for_help(messages(PUZZLE, REASONING, may_ask=True)[0]["content"])


def test_the_short_form_takes_few_tokens_of_the_bundled_model() -> None:
    tokenizer = Tokenizer.from_file(str(Path(bundled.__file__).parent / "models" / "edge" / "tokenizer.json"))
    for puzzle in draw(0, Split.TRAIN, 100):
        words = " ".join(m["content"] for m in messages(puzzle, SHORT, may_ask=True))
        assert len(tokenizer.encode(words).ids) <= 30 and len(tokenizer.encode(puzzle.solution).ids) <= 30


@pytest.mark.parametrize("bad", [(1, 9, 9), (7, 9, 9), (3, 0, 9), (3, 9, 0)])
def test_a_level_that_cannot_be_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="2 to 6 numbers"):
        Level(*bad)


def test_a_stream_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="train or test"):
        next(puzzles(0, Split.OPEN))
    with pytest.raises(ValueError, match="at least one level"):
        next(puzzles(0, Split.TRAIN, ()))
    with pytest.raises(ValueError, match="allow larger numbers"):  # the one puzzle of this level is in one split only
        _ = [next(puzzles(0, split, [Level(2, 1, 1)])) for split in (Split.TRAIN, Split.TEST)]
