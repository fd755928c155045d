"""Countdown: reach a target from given numbers with + - * /, each number used at most once.

The puzzle of the device-cloud paper's experiments; its verifier never evaluates code.
"""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 200  # characters; deeper nesting than this allows would only burden the parser


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers, a target that some expression over them reaches, and one such expression."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    @property
    def question(self) -> str:
        """The puzzle in words."""
        numbers = ", ".join(map(str, self.numbers))
        return f"Using the numbers {numbers}, make an expression that equals {self.target}."


def puzzles(seed: int, count: int = 3, highest: int = 25, limit: int = 200) -> Iterator[Puzzle]:
    """An endless, reproducible stream of solvable puzzles with targets in [1, limit]."""
    rng = Random(f"countdown/{seed}")
    while True:
        numbers = tuple(rng.randint(1, highest) for _ in range(count))
        value, words = _combine(rng, list(numbers))
        if value.denominator == 1 and 1 <= value <= limit:
            yield Puzzle(numbers, int(value), words)


def solves(puzzle: Puzzle, expression: str) -> bool:
    """Whether ``expression`` equals the target and uses each number at most as often as it is given."""
    try:
        used, value = _evaluate(ast.parse(expression.strip()[:_LONGEST], mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == puzzle.target and not Counter(used) - Counter(puzzle.numbers)


def _combine(rng: Random, numbers: list[int]) -> tuple[Fraction, str]:
    """Join random pairs of terms until one is left."""
    terms = [(Fraction(n), str(n)) for n in numbers]
    while len(terms) > 1:
        (left, left_words), (right, right_words) = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        sign = rng.choice("+-*/" if right else "+-*")
        joined = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
        terms.append((left / right if joined is None else joined, f"({left_words} {sign} {right_words})"))
    value, words = terms[0]
    return value, words[1:-1] if words.startswith("(") else words


def _evaluate(node: ast.expr) -> tuple[list[int], Fraction]:
    """The numbers an expression uses, and its value."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [node.value], Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        (left, a), (right, b) = _evaluate(node.left), _evaluate(node.right)
        return left + right, _OPERATORS[type(node.op)](a, b)
    raise ValueError("only whole numbers and + - * / may stand in an expression")
