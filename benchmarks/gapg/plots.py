"""The three curves, as small PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.gapg.capped import CAP, RATIOS
from benchmarks.gapg.runs import Result
from benchmarks.gapg.systems import TASK, System, overall

mpl.use("Agg")  # no display
_DPI = 80


def draw(
    stem: Path,
    seeds: Sequence[Mapping[str, System]],
    sweep: Mapping[float, Sequence[System]],
    results: Sequence[Mapping[str, Result]],
) -> str:
    """Write ``<stem>_ratio.png``, ``_learning.png`` and ``_alpha.png``; returns the Markdown that shows them."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    _save(stem, "ratio", 1, lambda axes: _ratio(axes[0], seeds))
    _save(stem, "learning", 2, lambda axes: _learning(axes, results))
    _save(stem, "alpha", 1, lambda axes: _alpha(axes[0], sweep))
    told = {
        "ratio": "Accuracy against the share that may go to the cloud, means over seeds. A model that decides itself "
        "leaves the rest of the share unused where it asks for less.",
        "learning": "Accuracy under the cap and own call ratio over the steps, means over seeds on the short exams.",
        "alpha": "GAPG by alpha_c: accuracy under the cap, solved alone, own call ratio.",
    }
    return "\n".join(f"![{text}]({stem.name}_{name}.png)\n\n{text}\n" for name, text in told.items())


def _ratio(axes: Any, seeds: Sequence[Mapping[str, System]]) -> None:
    for name in (name for name in seeds[0] if name != TASK):
        axes.plot(RATIOS, [np.mean(overall(seeds, name, ratio)) for ratio in RATIOS], label=name)
    axes.axvline(CAP, color="grey", lw=0.8, ls=":")
    axes.set(xlabel="share that may go to the cloud", ylabel="overall accuracy")


def _learning(axes: Sequence[Any], results: Sequence[Mapping[str, Result]]) -> None:
    for method in results[0]:
        steps = [point["step"] for point in results[0][method].curve]
        for place, (field, label) in enumerate((("capped", "accuracy under the cap"), ("asked", "asks for help"))):
            rows = [[point[field] for point in found[method].curve] for found in results]
            axes[place].plot(steps, np.mean(rows, axis=0), label=method)
            axes[place].set(xlabel="step", ylabel=label)


def _alpha(axes: Any, sweep: Mapping[float, Sequence[System]]) -> None:
    lines: dict[str, Callable[[System], float]] = {
        "accuracy under the cap": lambda system: system.at().overall,
        "solved alone": lambda system: system.at().local,
        "asks for help": lambda system: system.own,
    }
    for label, value in lines.items():
        axes.plot(
            list(sweep), [np.mean([value(system) for system in found]) for found in sweep.values()], "o-", label=label
        )
    axes.set(xlabel="alpha_c (alpha_a = 1)", ylim=(0, 1))


def _save(stem: Path, name: str, panels: int, paint: Callable[[Sequence[Any]], None]) -> None:
    figure, axes = plt.subplots(1, panels, figsize=(5.5 * panels + 0.5, 4), squeeze=False)
    paint(axes[0])
    axes[0][-1].legend(fontsize=7)
    for one in axes[0]:
        one.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(stem.with_name(f"{stem.name}_{name}.png"), dpi=_DPI)
    plt.close(figure)
