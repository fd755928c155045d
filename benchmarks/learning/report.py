"""Tables, curves and targets from the results of the runs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.figures import Figure, at_least, at_most, interval, publish
from benchmarks.learning.ways import FIRST, ROWS

Result = dict[str, Any]
Mark = dict[str, Any]
RECOVERED = 0.8  # of what the shift cost
ROUNDING = 1e-4  # of the frontier
POINT = 0.01  # of success; the loop's own benchmark allows as much


def write(paths: Sequence[Path], options: argparse.Namespace) -> int:
    """Print, and write the page where ``options.out`` says so; 1 if a target was missed."""
    runs: list[Result] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rounds, shifts, ways = ([run for run in runs if run["kind"] == kind] for kind in ("rounds", "shift", "ways"))
    status = publish("Learning from the log", [*_rounds(rounds), *_shift(shifts)], options, {"runs": runs})
    if options.out is not None:
        with options.out.with_suffix(".md").open("a", encoding="utf-8") as page:
            page.write("\n".join(_page(rounds, shifts, ways, options.out)) + "\n")
        _curves(rounds, options.out.with_name(f"{options.out.stem}_rounds.png"))
        _recovery(shifts, options.out.with_name(f"{options.out.stem}_shift.png"))
    return status


def _rounds(ours: Sequence[Result]) -> Iterator[Figure]:
    before, after = ([run["marks"][at] for run in ours] for at in (0, -1))
    yield Figure("requests served, each seed", ours[0]["requests"], "requests")
    yield Figure("the cloud alone: success", mean(mark["frontier"][-1] for mark in before), "share")
    for words, slack in (("equal success", 0.0), ("one point less success", POINT)):
        first, last = (mean(equal_offload(run["marks"][0], run["marks"][at], slack) for run in ours) for at in (0, -1))
        yield Figure(f"offloads at {words}, first version", first, "share")
        yield Figure(f"offloads at {words}, last version", last, "share")
        yield at_most(f"offloads at {words}, last / first", last / first, "ratio", 0.5)
    changes = [half_as_many(run["marks"][0], run["marks"][-1]) - run["marks"][0]["success"] for run in ours]
    for words, value in zip(("mean", "95 % low", "95 % high"), interval(changes), strict=True):
        if math.isfinite(value):
            yield Figure(f"success at half the offloads, last - first, {words}", value, "share")
    yield Figure("offloads as served, first version", mean(m["offload"] for m in before), "share")
    yield Figure("offloads as served, last version", mean(m["offload"] for m in after), "share")
    yield Figure("success as served, first version", mean(m["success"] for m in before), "share")
    yield Figure("success as served, last version", mean(m["success"] for m in after), "share")
    change = min(b["schema_valid"] - a["schema_valid"] for a, b in zip(before, after, strict=True))
    yield at_least("schema validity, last - first, worst seed", change, "share", -0.005)
    strict = min(mark["strict_valid"] for run in ours for mark in run["marks"])
    yield at_least("schema validity under a grammar, worst version", strict, "share", 0.995)


def _row(first: Mark, mark: Mark) -> dict[str, float]:
    """A mark's values by the name of their column; ``first`` is what it is compared with."""
    return {
        "edge right": mark["edge_success"],
        "schema valid": mark["schema_valid"],
        "valid under grammar": mark["strict_valid"],
        "AUROC": mark["auroc"],
        "ECE": mark["ece"],
        "offloads": mark["offload"],
        "success": mark["success"],
        "offloads at equal success": equal_offload(first, mark),
        "at one point less": equal_offload(first, mark, POINT),
        "success at half the offloads": half_as_many(first, mark),
    }


def equal_offload(first: Mark, mark: Mark, slack: float = 0.0) -> float:
    """Least share of offloads at which a mark's edge and cloud are as often right as the first site was, as served.

    1 where no share is enough: the first site was more often right than the cloud alone.
    """
    wanted: float = first["success"] - slack - ROUNDING
    frontier: list[float] = mark["frontier"]
    return next((n / (len(frontier) - 1) for n, success in enumerate(frontier) if success >= wanted), 1.0)


def half_as_many(first: Mark, mark: Mark) -> float:
    """A mark's success where it may send half as much as the first site sent."""
    frontier: list[float] = mark["frontier"]
    share: float = first["offload"] / 2
    return frontier[round(share * (len(frontier) - 1))]


def _shift(runs: Sequence[Result]) -> Iterator[Figure]:
    found = [recovery(run) for run in runs]
    yield Figure("shift: edge right before it", mean(f["before"] for f in found), "share")
    yield Figure("shift: edge right just after it", mean(f["shifted"] for f in found), "share")
    yield Figure("shift: edge right at the end", mean(f["end"] for f in found), "share")
    yield at_least("shift: recovered of what it cost, mean", mean(f["share"] for f in found), "share", RECOVERED)
    yield at_least("shift: recovered of what it cost, worst seed", min(f["share"] for f in found), "share", RECOVERED)
    needed = [f["calls"] for f in found if f["calls"] is not None]
    yield at_least("shift: seeds that recovered that much", len(needed) / max(len(found), 1), "share", 1.0)
    if needed:
        yield Figure("shift: calls to the cloud until then, worst of these", max(needed), "calls")
    yield Figure("shift: success of edge and cloud, least", min(f["lowest"] for f in found), "share")


def recovery(run: Result) -> dict[str, Any]:
    """How much of the edge's lost success came back, and after how many calls to the cloud ``RECOVERED`` of it had."""
    marks = {mark["mark"]: mark for mark in run["marks"]}
    before, shifted = marks["before"], marks["shift"]
    lost = before["edge_success"] - shifted["edge_success"]
    after = [mark for mark in run["marks"] if mark["mark"] == "after"]
    shares = [(mark["edge_success"] - shifted["edge_success"]) / lost for mark in after]
    calls = [m["calls"] - shifted["calls"] for m, share in zip(after, shares, strict=True) if share >= RECOVERED]
    return {
        "before": before["edge_success"],
        "shifted": shifted["edge_success"],
        "end": after[-1]["edge_success"] if after else shifted["edge_success"],
        "share": shares[-1] if shares else 0.0,
        "calls": calls[0] if calls else None,
        "lowest": min(mark["success"] for mark in [shifted, *after]),
    }


def _page(rounds: Sequence[Result], shifts: Sequence[Result], ways: Sequence[Result], out: Path) -> Iterator[str]:
    yield from _round_by_round(rounds)
    yield f"\n![offloads over requests]({out.stem}_rounds.png)"
    yield from _ways(ways)
    yield from _after_a_shift(shifts)
    yield f"\n![edge right after a shift]({out.stem}_shift.png)"


def _after_a_shift(runs: Sequence[Result]) -> Iterator[str]:
    yield "\n## After a shift\n"
    columns = [
        "seed",
        "before",
        "just after",
        "at the end",
        "recovered",
        "calls until 80 %",
        "edge right on old requests",
    ]
    yield from _head(columns)
    for run in runs:
        f, old = recovery(run), run["marks"][-1]["edge_success"]
        calls = "not reached" if f["calls"] is None else f["calls"]
        yield (
            f"| {run['seed']} | {f['before']:.3f} | {f['shifted']:.3f} | {f['end']:.3f} | {f['share']:.2f} | {calls} | "
            f"{old:.3f} |"
        )


def _round_by_round(runs: Sequence[Result]) -> Iterator[str]:
    yield "\n## Round by round\n\nMeans over the seeds.\n"
    columns = [*_row(runs[0]["marks"][0], runs[0]["marks"][0]), "CPU minutes"]
    yield from _head(["requests", "calls", *columns])
    for marks in zip(*(run["marks"] for run in runs), strict=True):
        rows = [_row(run["marks"][0], mark).values() for run, mark in zip(runs, marks, strict=True)]
        calls, minutes = mean(mark["calls"] for mark in marks), mean(mark["cpu_seconds"] for mark in marks) / 60
        cells = [f"{mean(values):.3f}" for values in zip(*rows, strict=True)]
        yield f"| {marks[0]['requests']} | {calls:.0f} | {' | '.join(cells)} | {minutes:.1f} |"


def _ways(runs: Sequence[Result]) -> Iterator[str]:
    """One row a way; the interval is over seeds, that is over logs and trainings."""
    labels = ", ".join(str(run["labels"]) for run in runs)
    yield "\n## Ways to learn\n"
    yield f"The first {runs[0]['rows'][FIRST]['requests']} requests of each seed, served by the first model without"
    yield f"learning, then one round on their log in each way ({labels} labels). Mean and 95 % interval over seeds.\n"
    yield from _head(["", "passes the gate", *_row(runs[0]["rows"][FIRST], runs[0]["rows"][FIRST])])
    for name in ROWS:
        found = [run["rows"] for run in runs if name in run["rows"]]
        if found:
            passed = [rows[name].get("passed") for rows in found]
            told = "" if None in passed else f"{sum(passed)} of {len(passed)}"
            rows = [_row(rows[FIRST], rows[name]).values() for rows in found]
            yield f"| {name} | {told} | {' | '.join(map(_cell, zip(*rows, strict=True)))} |"


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}"


def _cell(values: Sequence[float]) -> str:
    middle, _, high = interval(values)
    return f"{middle:.3f} ± {high - middle:.3f}" if math.isfinite(high) else f"{middle:.3f}"


def _curves(runs: Sequence[Result], path: Path) -> None:
    plot, figure = _figure()
    for words, slack in (("equal success", 0.0), ("one point less success", POINT)):
        for number, run in enumerate(runs):
            asked = [mark["requests"] for mark in run["marks"]]
            shares = [equal_offload(run["marks"][0], mark, slack) for mark in run["marks"]]
            color, label = ("C1", "C0")[slack > 0], f"at {words}" if number == 0 else None
            plot.plot(asked, shares, color=color, label=label)
    plot.set(xlabel="requests", ylabel="offloads, one line a seed", ylim=(0, None))
    plot.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _recovery(runs: Sequence[Result], path: Path) -> None:
    plot, figure = _figure()
    for run in runs:
        marks = [mark for mark in run["marks"] if mark["mark"] in ("shift", "after")]
        start = marks[0]["calls"]
        line = plot.plot([m["calls"] - start for m in marks], [m["edge_success"] for m in marks], marker="o")[0]
        plot.axhline(run["marks"][0]["edge_success"], color=line.get_color(), linestyle=":", linewidth=0.8)
    plot.set(xlabel="calls to the cloud since the shift", ylabel="edge right (dotted: before the shift)")
    figure.savefig(path, dpi=90)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415  (only a page needs it)

    figure = Canvas(figsize=(7.0, 4.0), layout="constrained")
    return figure.subplots(), figure
