"""Router figures: RouteLLM's definitions on cases worked by hand, and scores that never saw their own row."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import router_eval
from benchmarks.router_eval import FOLDS, Table, apgr, cpt, out_of_fold, read, recovered, traits, value
from policies.errors import BadConfig

HEADER = ["prompt", "weak", "strong", "weak_response", "strong_response"]


def table(n: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    weak = rng.random(n) < 0.5
    return Table(
        [f"prompt {i}" for i in range(n)],
        [f"{i} + 1 = {i + 1}\n#### {i}" for i in range(n)],
        weak,
        weak | (rng.random(n) < 0.6),
    )


def test_a_perfect_order_recovers_the_whole_gap_with_the_requests_that_need_it() -> None:
    weak, strong = np.arange(10) >= 4, np.ones(10, dtype=bool)
    curve = recovered(weak.astype(float), weak, strong)
    assert curve == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    assert apgr(curve) == pytest.approx(0.8)
    assert (cpt(curve, 0.5), cpt(curve, 0.8)) == pytest.approx((0.2, 0.32))


def test_the_worst_order_is_as_far_below_a_half() -> None:
    weak, strong = np.arange(10) >= 4, np.ones(10, dtype=bool)
    assert apgr(recovered(-weak.astype(float), weak, strong)) == pytest.approx(0.2)


def test_random_scores_recover_what_they_send() -> None:
    many = table(4000, seed=99)
    curves = [recovered(np.random.default_rng(seed).random(4000), many.weak, many.strong) for seed in range(20)]
    assert np.mean([apgr(curve) for curve in curves]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([cpt(curve, 0.8) for curve in curves]) == pytest.approx(0.8, abs=0.02)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=11, max_size=11), st.floats(0.01, 0.99))
def test_cpt_is_the_first_crossing_of_the_curve(inner: list[float], level: float) -> None:
    curve = np.array([0.0, *inner[1:10], 1.0])
    share = cpt(curve, level)
    assert np.interp(share, np.linspace(0, 1, 11), curve) == pytest.approx(level, abs=1e-6)
    assert (curve[np.linspace(0, 1, 11) < share - 1e-6] < level).all()


def test_no_row_is_scored_by_a_router_that_has_seen_it() -> None:
    def spy(train: Table, test: Table, seed: int) -> np.ndarray:
        assert not set(train.prompts) & set(test.prompts)
        assert len(train.prompts) + len(test.prompts) == 57
        return np.array([float(prompt.split()[1]) for prompt in test.prompts])

    scores = out_of_fold(spy, table(57), seeds=2)
    assert scores.tolist() == [list(map(float, range(57)))] * 2


def test_the_folds_differ_between_seeds() -> None:
    seen: list[frozenset[str]] = []
    out_of_fold(
        lambda train, test, seed: (seen.append(frozenset(test.prompts)), np.zeros(len(test.prompts)))[1], table(50), 2
    )
    assert len(set(seen)) == 2 * FOLDS


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2+3*4", 14), ("1,000 / 8", 125), ("50% * 8", 4), ("3 x 4", 12), ("-2", -2),
        ("1/0", None), ("2**9", None), ("a", None), ("", None), ("(" * 300, None),
    ],
)  # fmt: skip
def test_only_arithmetic_is_computed(expression: str, result: float | None) -> None:
    assert value(expression) == result


def test_a_wrong_sum_a_left_out_number_and_a_changed_result_are_noticed() -> None:
    prompt = "Ann has 16 eggs, eats 3 and sells the rest at 2 dollars."
    right = traits(prompt, "16 - 3 = 13\n13 * 2 = 26\n#### 26", False)
    wrong = traits(prompt, "16 - 3 = 15\n#### 7", False)
    assert (right[1], wrong[1]) == (0.0, 1.0)
    assert (right[5], wrong[5]) == (0.0, 1.0)
    assert (right[8], wrong[8]) == (1.0, 0.0)


def test_without_format_an_answers_end_and_notes_leave_no_length_behind() -> None:
    short, long = "2 + 2 = 4", "2 + 2 = <<2+2=4>>4 \n\n\n"
    assert router_eval.body(short) == router_eval.body(long)
    assert len(traits("p", short, True)) > len(traits("p", short, False))


@pytest.mark.parametrize("rows", [[], [["p", "True", "maybe", "a", "b"]], [["p", "True"]]])
def test_another_table_is_refused_by_its_name(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    with pytest.raises(BadConfig, match=r"data\.csv"):
        read(path)


def test_without_the_data_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path / "none.csv"), "--out", str(out)])
    assert router_eval.main() == 0
    assert "none.csv" in capsys.readouterr().err and not out.exists()


def test_a_whole_run_writes_every_router_with_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, path = table(40), tmp_path / "data.csv"
    with path.open("w", newline="") as stream:
        lines = zip(some.prompts, some.weak, some.strong, some.answers, some.answers, strict=True)
        csv.writer(stream).writerows([HEADER, *lines])
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--data", str(path), "--out", str(tmp_path / "out.json")])
    monkeypatch.setattr(router_eval, "RESAMPLES", (5, 5))
    router_eval.main()
    names = {figure["name"] for figure in json.loads((tmp_path / "out.json").read_text())["figures"]}
    assert {f"{router}: {metric}" for router in router_eval.ROUTERS for metric in router_eval.METRICS} <= names
