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
from benchmarks.learning.variants import DEFAULT, VARIANTS

Result = dict[str, Any]
Mark = dict[str, Any]
RECOVERED = 0.8  # of what the shift cost
ROUNDING = 1e-4  # of the frontier
POINT = 0.01  # of success; the loop's own benchmark allows as much


def write(paths: Sequence[Path], options: argparse.Namespace) -> int:
    """Print, and write the page where ``options.out`` says so; 1 if a target was missed."""
    runs: list[Result] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rounds = [run for run in runs if run["kind"] == "rounds"]
    shifts = [run for run in runs if run["kind"] == "shift"]
    status = publish("Learning from the log", [*_rounds(rounds), *_shift(shifts)], options, {"runs": runs})
    if options.out is not None:
        with options.out.with_suffix(".md").open("a", encoding="utf-8") as page:
            page.write("\n".join(_page(rounds, shifts, options.out)) + "\n")
        _curves(rounds, options.out.with_name(f"{options.out.stem}_rounds.png"))
        _recovery(shifts, options.out.with_name(f"{options.out.stem}_shift.png"))
    return status


def _rounds(runs: Sequence[Result]) -> Iterator[Figure]:
    ours = [run for run in runs if run["variant"] == DEFAULT.name]
    before, after = ([run["marks"][at] for run in ours] for at in (0, -1))
    yield Figure("requests served, each seed", ours[0]["requests"], "requests")
    yield Figure("the cloud alone: success", mean(mark["frontier"][-1] for mark in before), "share")
    for words, slack in (("equal success", 0.0), ("one point less success", POINT)):
        first, last = (mean(equal_offload(run, run["marks"][at], slack) for run in ours) for at in (0, -1))
        yield Figure(f"offloads at {words}, first version", first, "share")
        yield Figure(f"offloads at {words}, last version", last, "share")
        yield at_most(f"offloads at {words}, last / first", last / first, "ratio", 0.5)
    changes = [half_as_many(run, run["marks"][-1]) - run["marks"][0]["success"] for run in ours]
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


def _row(run: Result, mark: Mark) -> dict[str, float]:
    """A mark's values by the name of their column."""
    return {
        "edge right": mark["edge_success"],
        "schema valid": mark["schema_valid"],
        "valid under grammar": mark["strict_valid"],
        "AUROC": mark["auroc"],
        "ECE": mark["ece"],
        "offloads": mark["offload"],
        "success": mark["success"],
        "offloads at equal success": equal_offload(run, mark),
        "at one point less": equal_offload(run, mark, POINT),
        "success at half the offloads": half_as_many(run, mark),
        "CPU minutes": mark["cpu_seconds"] / 60,
    }


def equal_offload(run: Result, mark: Mark, slack: float = 0.0) -> float:
    """Least share of offloads at which a mark's edge and cloud are as often right as the first site was, as served.

    1 where no share is enough: the first site was more often right than the cloud alone.
    """
    wanted: float = run["marks"][0]["success"] - slack - ROUNDING
    frontier: list[float] = mark["frontier"]
    return next((n / (len(frontier) - 1) for n, success in enumerate(frontier) if success >= wanted), 1.0)


def half_as_many(run: Result, mark: Mark) -> float:
    """A mark's success where it may send half as much as the first site sent."""
    frontier: list[float] = mark["frontier"]
    share: float = run["marks"][0]["offload"] / 2
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


def _page(rounds: Sequence[Result], shifts: Sequence[Result], out: Path) -> Iterator[str]:
    served = min(run["requests"] for run in rounds)
    columns = [*_row(rounds[0], rounds[0]["marks"][0])]
    yield f"\n## Ways to learn\n\nAfter {served} requests; mean over the seeds, 95 % interval.\n"
    yield "| | seeds | " + " | ".join(columns) + " |\n|---|---:|" + "---:|" * len(columns)
    for variant in VARIANTS:
        mine = [_row(run, _at(run, served)).values() for run in rounds if run["variant"] == variant.name]
        if mine:
            cells = " | ".join(map(_cell, zip(*mine, strict=True)))
            yield f"| {variant.name} | {len(mine)} | {cells} |"
    yield "\n## What ships, round by round\n\nMeans over the seeds.\n"
    yield "| requests | calls | " + " | ".join(columns) + " |\n|---:|---:|" + "---:|" * len(columns)
    ours = [run for run in rounds if run["variant"] == DEFAULT.name]
    for marks in zip(*(run["marks"] for run in ours), strict=True):
        rows = [_row(run, mark).values() for run, mark in zip(ours, marks, strict=True)]
        means, calls = map(mean, zip(*rows, strict=True)), mean(mark["calls"] for mark in marks)
        yield f"| {marks[0]['requests']} | {calls:.0f} | " + " | ".join(f"{value:.3f}" for value in means) + " |"
    yield f"\n![offloads at one point less success]({out.stem}_rounds.png)\n\n## After a shift\n"
    yield "| seed | before | just after | at the end | recovered | calls until 80 % | edge right on old requests |"
    yield "|---:|" * 1 + "---:|" * 6
    for run in shifts:
        f, old = recovery(run), run["marks"][-1]["edge_success"]
        yield (
            f"| {run['seed']} | {f['before']:.3f} | {f['shifted']:.3f} | {f['end']:.3f} | {f['share']:.2f} | "
            f"{f['calls'] if f['calls'] is not None else 'not reached'} | {old:.3f} |"
        )
    yield f"\n![edge right after a shift]({out.stem}_shift.png)"


def _at(run: Result, requests: int) -> Mark:
    """The mark after so many requests."""
    found: Mark = next(mark for mark in reversed(run["marks"]) if mark["requests"] <= requests)
    return found


def _cell(values: Sequence[float]) -> str:
    middle, _, high = interval(values)
    return f"{middle:.3f} ± {high - middle:.3f}" if math.isfinite(high) else f"{middle:.3f}"


def _curves(runs: Sequence[Result], path: Path) -> None:
    plot, figure = _figure()
    for variant in VARIANTS:
        mine = [run for run in runs if run["variant"] == variant.name]
        if mine:
            asked = [mark["requests"] for mark in mine[0]["marks"]]
            shares = [mean(equal_offload(run, run["marks"][at], POINT) for run in mine) for at in range(len(asked))]
            plot.plot(asked, shares, label=variant.name)
    plot.set(xlabel="requests", ylabel="offloads at one point less success", ylim=(0, None))
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
