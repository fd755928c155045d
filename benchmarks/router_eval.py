"""Routers on real answers of a weak and a strong model: APGR and CPT as RouteLLM (arXiv 2406.18665) defines them.

``--data`` is RouteLLM's table of GSM8K answers (1,319 prompts, whether each answer was right). Every score is
out-of-fold: 10 folds, several seeds. A router sends the requests of highest score to the strong model; accuracy against
the share sent, at eleven shares, is its curve. APGR is the area between that curve and the weak model's accuracy, over
the whole gap; CPT(x) is the share of strong calls that first recovers x of the gap. Intervals: bootstrap over prompts.

``answer-aware`` reads the weak answer too, as a cascade does. A tenth of the weak answers were cut off by their token
limit: what gives that away is left out where it says "no format", and in the last rows only complete answers count.
RouteLLM's own routers never saw this benchmark, ours learn from nine tenths of it: its figures are a mark, not a match.
"""

from __future__ import annotations

import ast
import csv
import operator
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, hstack

from benchmarks.figures import Figure, at_least, at_most, parser, publish
from policies.calibration import auroc
from policies.errors import BadConfig
from policies.prompt_score import BITS, PromptScore, buckets, ridge_logistic
from policies.score import FloatArray

FOLDS = 10
RESAMPLES = 200, 1000  # quick, whole
SHARES = np.linspace(0.0, 1.0, 11)  # RouteLLM's ten equal bins of the score
PUBLISHED_APGR, PUBLISHED_CPT50, SHALLOW_APGR = 0.622, 0.336, 0.69
RIDGE = 3.0
SIZE = 0.3  # of standardised features beside n-gram rows of norm 1, under one ridge
MARK = "####"  # comes before the final answer
TINY, ROUNDING = 1e-6, 0.011  # models round to two digits

_NUMBER = r"[\d.,]*\d%?"
SUM = re.compile(rf"({_NUMBER}(?:\s*[-+*/x\u00d7]\s*{_NUMBER})+)\s*=\s*(-?{_NUMBER})")
NOTE = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
HEDGE = re.compile(r"however|but since|cannot|can't|not possible|assum|approximately|let's", re.IGNORECASE)
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Table:
    """Prompts, the weak model's answers, and whether the weak and the strong answer were right; n rows."""

    prompts: list[str]
    answers: list[str]
    weak: BoolArray
    strong: BoolArray

    @property
    def target(self) -> FloatArray:
        """How far the weak answer will do: 1 where only it is right, 0 where only the strong one is, else 1/2."""
        return np.asarray((1.0 + self.weak.astype(np.float64) - self.strong) / 2.0, dtype=np.float64)

    @property
    def complete(self) -> BoolArray:
        """Whether the weak answer came to its end."""
        return np.array([MARK in answer for answer in self.answers])

    def part(self, rows: Any) -> Table:
        """Some rows, by index or mask."""
        index = np.arange(len(self.prompts))[rows]
        prompts, answers = [self.prompts[i] for i in index], [self.answers[i] for i in index]
        return Table(prompts, answers, self.weak[index], self.strong[index])


Router = Callable[[Table, Table, int], FloatArray]
"""Fits on the first table and scores the second: the higher, the better will the weak answer do; seed last."""


def main() -> int:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="RouteLLM's gsm8k table (CSV)")
    options = made.parse_args()
    if not options.data.is_file():
        print(f"skipped: {options.data} does not exist; it is RouteLLM's table of GSM8K answers", file=sys.stderr)
        return 0
    table = read(options.data)
    seeds, resamples = (1, RESAMPLES[0]) if options.quick else (5, RESAMPLES[1])
    scores = {name: out_of_fold(router, table, seeds) for name, router in ROUTERS.items()}
    figures = [figure for name in ROUTERS for figure in rows(name, scores[name], table, resamples)]
    whole = table.complete
    figures += rows(
        "answer-aware, no format, complete answers only", scores[AWARE][:, whole], table.part(whole), resamples
    )
    told = {"prompts": len(table.prompts), "folds": FOLDS, "seeds": seeds, "resamples": resamples}
    return publish("Routers on GSM8K answers", figures, options, told)


def read(path: Path) -> Table:
    """The table of a CSV file: prompt, weak right, strong right, weak answer, strong answer.

    Raises:
        BadConfig: it is not such a table.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        _, *lines = csv.reader(stream)
    if not lines or any(len(line) != 5 or {line[1], line[2]} - {"True", "False"} for line in lines):
        raise BadConfig(f"{path}: every row must be prompt, True or False twice, and two answers")
    weak, strong = (np.array([line[i] == "True" for line in lines]) for i in (1, 2))
    return Table([line[0] for line in lines], [line[3] for line in lines], weak, strong)


def out_of_fold(router: Router, table: Table, seeds: int) -> FloatArray:
    """Scores of every row by routers that have not seen it: [seeds, n]."""
    scores = np.zeros((seeds, len(table.prompts)))
    for seed in range(seeds):
        fold = np.random.default_rng(seed).permutation(len(table.prompts)) % FOLDS
        for held in range(FOLDS):
            scores[seed, fold == held] = router(table.part(fold != held), table.part(fold == held), seed)
    return scores


def recovered(score: FloatArray, weak: BoolArray, strong: BoolArray) -> FloatArray:
    """Share of the quality gap recovered when the lowest ``SHARES`` of the scores go to the strong model: [11]."""
    gain = (strong.astype(np.float64) - weak)[np.argsort(score, kind="stable")]
    sent = np.rint(SHARES * len(score)).astype(np.int64)
    return np.asarray(np.concatenate([[0.0], np.cumsum(gain)])[sent] / gain.sum(), dtype=np.float64)


def apgr(curve: FloatArray) -> float:
    """Average share of the gap recovered over all shares sent; 0.5 at random."""
    return float(np.trapezoid(curve, SHARES))


def cpt(curve: FloatArray, level: float) -> float:
    """The share sent at which ``level`` of the gap is first recovered, between two points of the curve."""
    at = int(np.argmax(curve >= level))
    low, high = curve[max(at - 1, 0)], curve[at]
    return float(SHARES[at] - (high - level) / (high - low) * SHARES[1]) if at else 0.0


METRICS: dict[str, Callable[[FloatArray], float]] = {
    "APGR": apgr,
    "CPT(50 %)": lambda curve: cpt(curve, 0.5),
    "CPT(80 %)": lambda curve: cpt(curve, 0.8),
}


def rows(name: str, scores: FloatArray, table: Table, resamples: int) -> list[Figure]:
    """Means over the seeds, each with its interval; targets where something was published."""
    rng = np.random.default_rng(0)
    draws = [np.arange(len(table.prompts)), *(rng.choice(len(table.prompts), (resamples, len(table.prompts))))]
    curves = [[recovered(score[rows], table.weak[rows], table.strong[rows]) for score in scores] for rows in draws]
    figures = []
    for metric, measure in METRICS.items():
        values = [float(np.mean([measure(curve) for curve in some])) for some in curves]
        low, high = np.quantile(values[1:], (0.025, 0.975))
        unit, full = f"share, 95 %: {low:.3f} to {high:.3f}", f"{name}: {metric}"
        promised = TARGETS.get((name, metric))
        figures.append(promised(full, values[0], unit) if promised else Figure(full, values[0], unit))
    area = float(np.mean([auroc(score, table.weak) for score in scores]))
    return [*figures, Figure(f"{name}: AUROC of the weak answer being right", area, "share")]


def at_random(train: Table, test: Table, seed: int) -> FloatArray:
    """No signal: the line that every router is compared with."""
    return np.random.default_rng((seed, len(train.prompts), len(test.prompts))).random(len(test.prompts))


def tfidf(train: Table, test: Table, seed: int) -> FloatArray:  # noqa: ARG001
    """TF-IDF of the prompt's words and pairs of words, rows of norm 1, logistic regression."""
    seen = Counter(word for prompt in train.prompts for word in set(words(prompt)))
    column = {word: i for i, word in enumerate(seen)}
    idf = np.array([np.log((1 + len(train.prompts)) / (1 + n)) + 1 for n in seen.values()])

    def matrix(prompts: Sequence[str]) -> csr_array:
        found = [[column[word] for word in words(prompt) if word in column] for prompt in prompts]
        return normed(found, len(column), idf)

    return predicted(matrix(train.prompts), train.target, matrix(test.prompts), ridge=1.0)


def prompt_only(train: Table, test: Table, seed: int) -> FloatArray:  # noqa: ARG001
    """``policies.prompt_score``, as it serves."""
    fitted = PromptScore.fit(train.prompts, [0] * len(train.prompts), train.target)
    return np.array([fitted.predict(prompt, 0) for prompt in test.prompts])


def answer_aware(*, form: bool) -> Router:
    """Prompt, weak answer and what ``traits`` finds in them; ``form`` also with length, ending and completeness."""

    def route(train: Table, test: Table, seed: int) -> FloatArray:  # noqa: ARG001
        known, new = features(train, form), features(test, form)
        center, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-9)

        def matrix(table: Table, found: FloatArray) -> csr_array:
            answers = table.answers if form else [body(answer) for answer in table.answers]
            parts = [hashed(table.prompts), hashed(answers), csr_array((found - center) / scale * SIZE)]
            return csr_array(hstack(parts))

        return predicted(matrix(train, known), train.target, matrix(test, new), RIDGE)

    return route


AWARE = "answer-aware, no format"
ROUTERS: dict[str, Router] = {
    "random": at_random,
    "TF-IDF": tfidf,
    "prompt-only": prompt_only,
    AWARE: answer_aware(form=False),
    "answer-aware, with format": answer_aware(form=True),
}
TARGETS: dict[tuple[str, str], Callable[[str, float, str], Figure]] = {
    ("prompt-only", "APGR"): lambda name, value, unit: at_least(name, value, unit, PUBLISHED_APGR),
    ("prompt-only", "CPT(50 %)"): lambda name, value, unit: at_most(name, value, unit, PUBLISHED_CPT50),
    (AWARE, "APGR"): lambda name, value, unit: at_least(name, value, unit, SHALLOW_APGR),
}


def predicted(known: csr_array, target: FloatArray, new: csr_array, ridge: float) -> FloatArray:
    """Log-odds of ``new`` rows by a ridge logistic regression on ``known`` ones."""
    theta = ridge_logistic(known, target, np.ones(len(target)), ridge)
    return np.asarray(theta[0] + new @ theta[1:], dtype=np.float64)


def words(prompt: str) -> list[str]:
    """Words in lower case, and pairs of neighbours."""
    single = re.findall(r"\w\w+", prompt.lower())
    return single + [f"{a} {b}" for a, b in pairwise(single)]


def hashed(texts: Sequence[str]) -> csr_array:
    """Hashed n-grams as ``policies.prompt_score`` reads them, rows of norm 1: [n, buckets]."""
    return normed([buckets(text) for text in texts], 1 << BITS, np.ones(1 << BITS))


def normed(found: Sequence[Sequence[int] | npt.NDArray[np.int64]], width: int, scale: FloatArray) -> csr_array:
    """Counts of columns times ``scale``, rows of norm 1."""
    ends = np.cumsum([0, *map(len, found)])
    columns = np.concatenate([np.asarray(one, dtype=np.int64) for one in found])
    matrix = csr_array((scale[columns], columns, ends), shape=(len(found), width))
    matrix.sum_duplicates()
    norm = np.sqrt(np.add.reduceat(np.r_[matrix.data**2, 0.0], matrix.indptr[:-1]))
    matrix.data /= np.repeat(np.maximum(norm, 1e-9), np.diff(matrix.indptr))
    return matrix


def features(table: Table, form: bool) -> FloatArray:
    """``traits`` of every row: [n, traits]."""
    return np.array([traits(*pair, form) for pair in zip(table.prompts, table.answers, strict=True)])


@cache
def traits(prompt: str, answer: str, form: bool) -> tuple[float, ...]:
    """What an attentive reader sees: sums that are wrong, numbers of the prompt left out, numbers from nowhere, a last
    line that is not the last result; with ``form`` also completeness, length and lines."""
    text, final = body(answer), answer.partition(MARK)[2]
    sums = [(value(left), value(right)) for left, right in SUM.findall(text)]
    noted = [(value(left), value(right)) for left, right in NOTE.findall(answer)]
    results = [right for _, right in sums + noted if right is not None]
    asked, said = numbers(prompt), numbers(text)
    last = (numbers(final) or said[-1:] or [0.0])[0]
    seen = (
        np.log1p(len(sums)),
        min(sum(map(wrong, sums)), 2),
        np.log1p(len(noted)),
        min(sum(map(wrong, noted)), 2),
        len(set(asked) & set(said)) / max(len(set(asked)), 1),
        len(set(asked) - set(said)),
        np.log1p(len(set(said) - set(asked) - set(results))),
        last != int(last),
        bool(results) and abs(results[-1] - last) < TINY,
        last in asked,
        np.log1p(abs(last)),
        bool(HEDGE.search(text)),
        any(result != int(result) for result in results),
        any(result < 0 for result in results),
        np.log1p(len(prompt)),
        np.log1p(len(asked)),
        np.log1p(len(re.findall(r"[.?!]", prompt))),
    )
    shape = (MARK in answer, np.log1p(len(answer)), answer.count("\n"), len(final.strip()), "<<" in answer)
    return tuple(map(float, seen + shape if form else seen))


def body(answer: str) -> str:
    """The reasoning without its end, its notes ``<<2*3=6>>`` and its currency signs."""
    return re.sub(r"<<[^>]*>>|[\\$]", "", answer.partition(MARK)[0]).strip()


def numbers(text: str) -> list[float]:
    """Every number written in digits."""
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def wrong(sides: tuple[float | None, float | None]) -> bool:
    """Whether an equation does not hold, within rounding; one that cannot be read holds."""
    left, right = sides
    return left is not None and right is not None and abs(left - right) > ROUNDING * max(1.0, abs(right))


def value(text: str) -> float | None:
    """What an expression of numbers and + - * / comes to; None for anything else."""
    plain = re.sub(r"[x\u00d7]", "*", text.replace(",", "").replace("%", "/100")).strip()
    try:
        return _evaluated(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _evaluated(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


if __name__ == "__main__":
    sys.exit(main())
