"""Hot swaps under load: what clients, the log and the engine notice of them.

A whole site with real vLLM serves 64 clients, each with its own question, over HTTP while its weights change back and
forth between two versions. Every answer is held against what its version answered to the same question when nothing
was swapped: an answer that no swap overlapped has to be that one, or something of the other version was left (a prefix
cache, a weight). The event loop is watched beside it, and at the end weights that cannot be loaded are tried.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import torch
from safetensors.torch import load_file, save_file

from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import read_log
from actors.swap import SwapReport, Weights
from benchmarks.figures import Figure, at_most, parser, percentile, publish
from orchestrator.config import Config, default_config, resolve_model
from orchestrator.site import EdgeSite
from orchestrator.tasks.generator import Split, tasks

CLIENTS = 64
PAUSE_S = 0.6  # between two swaps: some answers are whole within one version
NOISE = 0.3  # of the second version's weights: other answers, still calls
GAP_MS, ROLL_BACK_S = 100.0, 1.0
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: when it was asked for and came, by which version, and what it says."""

    question: int
    asked_s: float
    came_s: float
    status: int
    version: str
    text: str
    request_id: str


@dataclass
class Seen:
    """Everything that was noticed."""

    answers: list[Answered] = field(default_factory=list)
    swaps: list[tuple[float, float, SwapReport]] = field(default_factory=list)
    stalls_s: list[float] = field(default_factory=list)


async def run(config: Config, store: ModelStore, count: int) -> list[Figure]:
    """Serve, ask, swap, compare."""
    first, second = _versions(store, Path(config.var))
    site = EdgeSite(config, Weights(first.version, first.path), cloud_url=None, cloud_model="", router="127.0.0.1:9")
    await site.start()
    try:
        url, bodies = f"{site.info()['url']}/chat/completions", _bodies()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            expected = await _alone(site, client, url, bodies, [second, first])
            seen = Seen()
            await _under_load(site, client, url, bodies, [second, first], count, seen)
        broken = await _broken(site, store, Path(config.var))
    finally:
        await site.stop()
    return _figures(seen, expected, broken, config)


async def _alone(
    site: EdgeSite, client: aiohttp.ClientSession, url: str, bodies: Sequence[bytes], versions: Sequence[ModelVersion]
) -> dict[tuple[str, int], set[str]]:
    """What each version answers, all questions at once, asked twice: rounding may follow the batch."""
    found: dict[tuple[str, int], set[str]] = {}
    for version in versions:
        await site.swap(version.version, version.path, version.sha256)
        for _ in range(3):
            answers = await asyncio.gather(*(_ask(client, url, n, body) for n, body in enumerate(bodies)))
            for answer in answers:
                found.setdefault((version.version, answer.question), set()).add(answer.text)
    return found


async def _under_load(
    site: EdgeSite,
    client: aiohttp.ClientSession,
    url: str,
    bodies: Sequence[bytes],
    versions: Sequence[ModelVersion],
    count: int,
    seen: Seen,
) -> None:
    over = asyncio.Event()

    async def keep_asking(number: int) -> None:
        while not over.is_set():
            seen.answers.append(await _ask(client, url, number, bodies[number]))

    async def watch() -> None:
        while not over.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            seen.stalls_s.append(time.perf_counter() - began - 0.005)

    asking = [asyncio.create_task(keep_asking(number)) for number in range(len(bodies))]
    watching = asyncio.create_task(watch())
    await asyncio.sleep(2.0)
    for number in range(count):
        version, began = versions[number % 2], time.perf_counter()
        report = await site.swap(version.version, version.path, version.sha256)
        seen.swaps.append((began, time.perf_counter(), report))
        await asyncio.sleep(PAUSE_S)
    over.set()
    await asyncio.gather(*asking, watching)


async def _broken(site: EdgeSite, store: ModelStore, var: Path) -> tuple[float, SwapReport]:
    """Try weights that are of another model; seconds until the old ones are sure to be live."""
    directory = var / "broken"
    shutil.copytree(resolve_model("bundled:edge"), directory)
    wrong = {name: tensor[..., :-1].contiguous() for name, tensor in load_file(directory / WEIGHTS).items()}
    save_file(wrong, directory / WEIGHTS, {"format": "pt"})
    version, began = store.publish(directory, "edge", None, {}), time.perf_counter()
    report = await site.swap(version.version, version.path, version.sha256)
    return time.perf_counter() - began, report


async def _ask(client: aiohttp.ClientSession, url: str, question: int, body: bytes) -> Answered:
    asked_s = time.perf_counter()
    async with client.post(url, data=body) as reply:
        said = json.loads(await reply.read())
        headers = reply.headers
        text = json.dumps(_said(said))
        version, name = headers.get("x-netgpt-version", ""), headers.get("x-request-id", "")
        return Answered(question, asked_s, time.perf_counter(), reply.status, version, text, name)


def _said(reply: dict[str, Any]) -> Any:
    """What an answer says, without the names of its calls."""
    if "choices" not in reply:
        return reply
    message = reply["choices"][0]["message"]
    return [message["content"], [call["function"] for call in message.get("tool_calls", ())]]


def _figures(
    seen: Seen, expected: dict[tuple[str, int], set[str]], broken: tuple[float, SwapReport], config: Config
) -> list[Figure]:
    good = [answer for answer in seen.answers if answer.status == 200]
    whole = [answer for answer in good if not _overlapped(answer, seen)]
    other = [a for a in whole if a.text not in expected.get((a.version, a.question), set())]
    differ = sum(not expected[key] & expected[pair] for key, pair in _pairs(expected))
    gaps = [1e3 * report.gap_s for _, _, report in seen.swaps]
    took = [1e3 * (ended - began) for began, ended, _ in seen.swaps]
    table = read_log(config.log_dir)
    logged = dict(zip(table["request_id"].to_pylist(), table["draft_version"].to_pylist(), strict=True))
    back_s, report = broken
    versions = {version for version, _ in expected}
    return [
        Figure("swaps", len(seen.swaps), "count"),
        at_most("swaps that were rolled back", sum(r.outcome != "live" for *_, r in seen.swaps), "count", 0),
        Figure("requests answered meanwhile", len(good), "count"),
        at_most("requests that failed", len(seen.answers) - len(good), "count", 0),
        at_most("answers without a known version", sum(a.version not in versions for a in good), "count", 0),
        Figure("questions that the versions answer differently", differ, "count"),
        Figure("answers that no swap overlapped", len(whole), "count"),
        at_most("of these, not what their version answers", len(other), "count", 0),
        at_most("answered requests that are not in the log once", _unlogged(good, logged, len(table)), "count", 0),
        Figure("engine without a step, p50", percentile(gaps, 0.5), "ms"),
        at_most("engine without a step, most", max(gaps), "ms", GAP_MS),
        Figure("a whole swap, p50", percentile(took, 0.5), "ms"),
        Figure("event loop held up, p99", 1e3 * percentile(seen.stalls_s, 0.99), "ms"),
        Figure("event loop held up, most", 1e3 * max(seen.stalls_s), "ms"),
        Figure("latency, p50", 1e3 * percentile([a.came_s - a.asked_s for a in good], 0.5), "ms"),
        Figure("latency, p99", 1e3 * percentile([a.came_s - a.asked_s for a in good], 0.99), "ms"),
        at_most("weights that do not fit: roll-back", back_s, "s", ROLL_BACK_S),
        at_most("weights that do not fit: went live", float(report.outcome == "live"), "count", 0),
    ]


def _overlapped(answer: Answered, seen: Seen) -> bool:
    return any(began <= answer.came_s and answer.asked_s <= ended for began, ended, _ in seen.swaps)


def _pairs(expected: dict[tuple[str, int], set[str]]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Each question under both versions."""
    one, two = sorted({version for version, _ in expected})
    return [((one, n), (two, n)) for n in range(CLIENTS)]


def _unlogged(good: Sequence[Answered], logged: dict[str, str], rows: int) -> int:
    """Answers without a record of their version, and records that stand twice."""
    return sum(answer.request_id not in logged for answer in good) + rows - len(logged)


def _versions(store: ModelStore, var: Path) -> tuple[ModelVersion, ModelVersion]:
    """The bundled edge model, and the same with a little noise."""
    base = Path(resolve_model("bundled:edge"))
    first = store.publish(base, "edge", None, {})
    noisy = var / "noisy"
    shutil.copytree(base, noisy)
    torch.manual_seed(0)
    tensors = load_file(noisy / WEIGHTS)
    changed = {name: t + NOISE * t.float().std().to(t.dtype) * torch.randn_like(t) for name, t in tensors.items()}
    save_file(changed, noisy / WEIGHTS, {"format": "pt"})
    return first, store.publish(noisy, "edge", first.version, {})


def _bodies() -> list[bytes]:
    asked = islice(tasks(0, Split.TEST), CLIENTS)
    return [
        json.dumps({"model": "netgpt", "messages": list(t.messages), "tools": list(t.tools), "max_tokens": 96}).encode()
        for t in asked
    ]


def main() -> int:
    """The command line."""
    options = parser(__doc__).parse_args()
    count = 20 if options.quick else 200
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="netgpt-swaps-") as var:
        site = {"port": 0, "max_in_flight": 2 * CLIENTS, "engine": {"kind": "vllm", "model": "bundled:edge"}}
        config = default_config(var=var, site=site, policy={"kind": "fixed", "value": 0.0}, learner={"enabled": False})
        found = asyncio.run(run(config, ModelStore(config.store_dir, keep=8), count))
    return publish("Hot swaps under load", found, options)


if __name__ == "__main__":
    sys.exit(main())
