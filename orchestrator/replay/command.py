"""The whole of ``netgpt replay``: read, evaluate, show, write; then the suggestion, if one is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from orchestrator.policy_options import PolicyOptions
from orchestrator.replay.frontier import write_frontier
from orchestrator.replay.reading import read
from orchestrator.replay.results import Results, results
from orchestrator.replay.rules import PolicyLoader, build_policy, rules
from orchestrator.replay.suggest import parse_target, suggest
from orchestrator.replay.tables import link_table, notes, policy_table
from policies.errors import BadConfig
from policies.replay import price


def replay(
    log: Path,
    policies: Sequence[str],
    options: PolicyOptions,
    out: Path,
    load: PolicyLoader,
    console: Console,
    target: str | None = None,
) -> None:
    """Evaluate ``policies`` on the log and show what they would have earned.

    Args:
        log: root of an offload log.
        policies: ``fixed:TAU``, ``optimal`` or policy files.
        options: the objective that judges, and what ``optimal`` is built from.
        out: directory for replay.json, frontier.png and frontier.html.
        load: reads a policy file for an edge version.
        target: ``success=0.95``, ``cost_usd_per_k=0.4`` or ``offload=0.2``: also suggest settings.

    Raises:
        LogError: the log cannot be read or says nothing.
        BadConfig: a policy or the target cannot be used, the target cannot be reached, or ``out`` not written.
    """
    wanted = parse_target(target) if target is not None else None
    reading = read(log)
    priced = price(reading.logged, options.speed, options.objective)
    built = [(name, build_policy(name, options, reading.version, load)) for name in policies]
    found = results(reading, priced, rules(priced, built))
    console.print(policy_table(found), link_table(found), sep="\n")
    for note in notes(found):
        console.print(note, markup=False, highlight=False)
    _write(out, found)
    console.print(f"Written: {out}/replay.json, frontier.png, frontier.html", markup=False, highlight=False)
    if wanted is not None:
        console.print(suggest(priced, options, wanted).text, markup=False, highlight=False, soft_wrap=True)


def _write(out: Path, found: Results) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_frontier(out, found)
        text = json.dumps(_plain(asdict(found)), indent=1, allow_nan=False)
        (out / "replay.json").write_text(text + "\n", encoding="utf-8")
    except OSError as why:
        raise BadConfig(f"--out {out}: it cannot be written: {why}. Fix: give a directory that can") from why


def _plain(value: Any) -> Any:
    """What JSON can hold; a bound that is infinite because nothing was measured becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
