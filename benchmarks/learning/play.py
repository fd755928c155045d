"""One run, as a process of its own: ``python -m benchmarks.learning.play --help``.

``rounds``: the same kind of traffic throughout. ``shift``: half-way the site's users begin to ask for five tools that
nobody asked for before, and word everything as nobody did before. ``ways``: one log, learnt from in several ways.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import keep
from benchmarks.learning.measure import Looked, look
from benchmarks.learning.site import THRESHOLD, Site
from benchmarks.learning.ways import WAYS, compared
from orchestrator.bundled.recipes import SELDOM
from orchestrator.demo.workload import MIX
from orchestrator.tasks.generator import Split, Task, tasks

EVALUATION_SEED = 900  # of the requests that versions are compared on; runs have small ones
STRETCH = 400  # requests between two looks at the live version
GLANCE = 125  # requests between two looks at the live version after a shift
OLD_MIX = {kind: weight for kind, weight in MIX.items() if kind not in SELDOM}


def main() -> int:
    """Run and write the result."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--kind", choices=["rounds", "shift", "ways"], default="rounds")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--requests", type=int, default=1500)
    made.add_argument("--stretch", type=int, default=STRETCH, help="requests between two looks at the live version")
    made.add_argument("--ways", type=int, default=len(WAYS), help="ways to learn that are compared")
    made.add_argument("--judged", type=int, default=1000, help="requests that each version is judged on")
    made.add_argument("--answers", type=Path, required=True, help="file that keeps the cloud's answers")
    made.add_argument("--out", type=Path, required=True)
    options = made.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="netgpt-learning-") as var:
        learns, watchful = options.kind != "ways", options.kind == "shift"
        site = Site(Path(var, "site"), options.seed, watchful, options.answers, learns)
        result = asyncio.run(_run(site, Path(var), options))
    told = {"kind": options.kind, "seed": options.seed, "requests": options.requests}
    keep(options.out, {**told, **result, "seconds": time.monotonic() - began})
    return 0


async def _run(site: Site, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    await site.start()
    try:
        if options.kind == "shift":
            return await shift(site, options.seed, options.requests, options.judged)
        if options.kind == "ways":
            stream, fresh = (
                _draw(s, Split.TEST, MIX, n)
                for s, n in ((options.seed, options.requests), (EVALUATION_SEED, options.judged))
            )
            return await compared(site, work, stream, fresh, options.ways)
        return await rounds(site, options.seed, options.requests, options.judged, options.stretch)
    finally:
        await site.close()


async def rounds(site: Site, seed: int, requests: int, judged: int, stretch: int) -> dict[str, Any]:
    """The same kind of traffic throughout; the live version is judged after every ``stretch`` requests."""
    fresh = _draw(EVALUATION_SEED, Split.TEST, MIX, judged)
    stream = _draw(seed, Split.TEST, MIX, requests)
    seen = await look(site, fresh)
    marks, known = [_mark("first", site, seen)], len(site.published)
    for start in range(0, requests, stretch):
        await site.play(stream[start : start + stretch])
        if len(site.published) > known:  # judged when something changed
            known, seen = len(site.published), await look(site, fresh)
        marks.append(_mark("later", site, seen))
    return {"marks": marks, "rounds": _told(site)}


async def shift(site: Site, seed: int, requests: int, judged: int) -> dict[str, Any]:
    """A third of the traffic as before, two thirds after the shift; judged on both kinds of request."""
    old = _draw(EVALUATION_SEED, Split.TRAIN, OLD_MIX, judged)
    new = _draw(EVALUATION_SEED, Split.TEST, MIX, judged)
    before = requests // 3
    await site.play(_draw(seed, Split.TRAIN, OLD_MIX, before))
    marks = [_mark("before", site, await look(site, old)), _mark("shift", site, await look(site, new))]
    known = len(site.published)
    stream = _draw(seed, Split.TEST, MIX, requests - before)
    for start in range(0, len(stream), GLANCE):
        await site.play(stream[start : start + GLANCE])
        if len(site.published) > known:
            known = len(site.published)
            marks.append(_mark("after", site, await look(site, new)))
    marks.append(_mark("old requests at the end", site, await look(site, old)))
    return {"marks": marks, "rounds": _told(site)}


def _mark(name: str, site: Site, looked: Looked) -> dict[str, Any]:
    spent = {"requests": site.requests, "calls": site.calls, "cpu_seconds": time.process_time()}
    worth = looked.seen(site.scorer()).worth(THRESHOLD)
    return {"mark": name, "version": site.node.version, **spent, **asdict(worth)}


def _told(site: Site) -> list[dict[str, Any]]:
    return [
        {"reason": r.reason, "seconds": r.seconds, "samples": r.samples, "figures": dict(r.figures),
         "gate": asdict(r.gate) if r.gate else None} for r in site.rounds
    ]  # fmt: skip


def _draw(seed: int, split: Split, mix: dict[str, float], count: int) -> list[Task]:
    return list(itertools.islice(tasks(seed, split, mix), count))


if __name__ == "__main__":
    sys.exit(main())
