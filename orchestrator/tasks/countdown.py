"""Countdown: join given numbers by + - * / and parentheses to reach a target, each number used exactly once.

The puzzle of arXiv 2509.24050's experiments, by TinyZero's rule (exactly once, not at most). ``puzzles`` makes them
by seed, ``messages`` asks them in one of two forms, ``is_solved`` judges an answer by exact arithmetic and never
evaluates code. A puzzle is its numbers in any order and its target; a hash of these decides its split, so training and
test never share one, whatever the seed and the level.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from orchestrator.tasks.generator import Split
from policies.help_marker import HELP

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 200  # characters of an expression; six numbers need less than half
_PLAIN = re.compile(r"[0-9+\-*/()\s]+")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FORM = re.compile(r"\s*<think>((?!</think>).)*</think>\s*<answer>((?!</?answer>).)*</answer>\s*", re.DOTALL)
_HELD_SHARE = 5  # one puzzle in five belongs to the test split
_MOST_TRIES = 20_000  # a level of the smallest size has one try in hundreds that fits; running out means there is none


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a puzzle is: how many numbers, the largest of them, and the largest target.

    Raises:
        ValueError: not 2 to 6 numbers, or a bound below 1.
    """

    numbers: int
    highest: int
    limit: int

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 6 or self.highest < 1 or self.limit < 1:
            raise ValueError(f"a level needs 2 to 6 numbers, highest >= 1 and limit >= 1, got {self}")


LEVELS = (Level(2, 9, 81), Level(3, 9, 100), Level(3, 25, 200), Level(4, 99, 200))


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers, a target that some expression over them reaches, and one such expression."""

    numbers: tuple[int, ...]
    target: int
    solution: str
    split: Split
    level: Level


@dataclass(frozen=True, slots=True)
class Template:
    """How a puzzle is asked: ``{numbers}`` and ``{target}`` stand in ``user``; ``help`` ends the system text."""

    system: str
    user: str
    help: str


# In the style of the paper's Template I, for models that can follow instructions; answers are in <answer> tags.
REASONING = Template(
    "You are a helpful assistant. Think the problem through first, then give the answer. Show all your reasoning in "
    "<think> </think> tags and end with the final answer in <answer> </answer> tags.",
    "Using the numbers {numbers}, make an expression that equals {target}. Use + - * / and parentheses, each number "
    "exactly once. Let me solve this step by step.",
    f" If a thorough attempt finds no solution, you can ask for external assistance at the end: {HELP}.",
)
# For a model of a few million parameters that learns from nothing what is asked, and how it is to be answered.
SHORT = Template("countdown", "{numbers} make {target}", " or help")


def puzzles(seed: int, split: Split, levels: Sequence[Level] = LEVELS) -> Iterator[Puzzle]:
    """An endless, reproducible stream of solvable puzzles, levels drawn uniformly.

    Raises:
        ValueError: there is no level, the split is OPEN (numbers have no open vocabulary), or a level has no puzzle in
            the split.
    """
    if not levels or split is Split.OPEN:
        raise ValueError(f"countdown needs at least one level and the split train or test, got {levels} and {split}")
    rng = Random(f"countdown/{seed}/{split}")
    while True:
        level = rng.choice(levels)
        drawn = (_try(rng, split, level) for _ in range(_MOST_TRIES))
        puzzle = next((puzzle for puzzle in drawn if puzzle), None)
        if puzzle is None:
            raise ValueError(f"{level} has no puzzle in split {split}: allow larger numbers or targets")
        yield puzzle


def messages(puzzle: Puzzle, template: Template, may_ask: bool) -> tuple[dict[str, str], ...]:
    """The puzzle as chat messages; ``may_ask`` tells the model that it can ask for help."""
    system = template.system + (template.help if may_ask else "")
    user = template.user.format(numbers=" ".join(map(str, puzzle.numbers)), target=puzzle.target)
    return ({"role": "system", "content": system}, {"role": "user", "content": user})


def is_solved(puzzle: Puzzle, text: str) -> bool:
    """Whether ``text`` solves the puzzle: its last <answer>, or all of it where there is none."""
    answers = _ANSWER.findall(text)
    return solves(puzzle, answers[-1] if answers else text)


def is_formatted(text: str) -> bool:
    """Whether ``text`` is reasoning within <think>, then one answer within <answer>, and nothing else."""
    return _FORM.fullmatch(text) is not None


def solves(puzzle: Puzzle, expression: str) -> bool:
    """Whether ``expression`` equals the target and uses each number exactly as often as it is given; never raises."""
    if len(expression) > _LONGEST or not _PLAIN.fullmatch(expression):
        return False
    try:
        used, value = _evaluate(ast.parse(" ".join(expression.split()), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == puzzle.target and sorted(used) == sorted(puzzle.numbers)


def random_expression(rng: Random, numbers: list[int]) -> tuple[Fraction, str]:
    """Join random pairs of terms by random signs until one is left: its exact value, and how it is written."""
    terms = [(Fraction(n), str(n)) for n in numbers]
    while len(terms) > 1:
        (left, left_words), (right, right_words) = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        sign = rng.choice("+-*/" if right else "+-*")
        joined = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
        terms.append((left / right if joined is None else joined, f"({left_words} {sign} {right_words})"))
    value, words = terms[0]
    return value, words[1:-1]


def _try(rng: Random, split: Split, level: Level) -> Puzzle | None:
    """Draw one puzzle; None when it belongs to another split or its target is none."""
    numbers = tuple(rng.randint(1, level.highest) for _ in range(level.numbers))
    value, words = random_expression(rng, list(numbers))
    if value.denominator != 1 or not 1 <= value <= level.limit:
        return None
    if _held(numbers, int(value)) != (split is Split.TEST):
        return None
    return Puzzle(numbers, int(value), words, split, level)


def _held(numbers: Sequence[int], target: int) -> bool:
    """Whether these numbers, in any order, with this target belong to the test split."""
    digest = hashlib.blake2s(f"{sorted(numbers)}={target}".encode()).digest()
    return digest[0] % _HELD_SHARE == 0


def _evaluate(node: ast.expr) -> tuple[list[int], Fraction]:
    """The numbers an expression uses, and its value."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [node.value], Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        (left, a), (right, b) = _evaluate(node.left), _evaluate(node.right)
        return left + right, _OPERATORS[type(node.op)](a, b)
    raise ValueError("only whole numbers and + - * / may stand in an expression")
