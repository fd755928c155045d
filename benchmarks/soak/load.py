"""Clients in a process of their own: requests arrive by a Poisson process, whether or not earlier ones are answered.

``play`` runs ``python -m benchmarks.soak.load URL RATE SECONDS SEED`` and reads its lines. Times are of the machine's
monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import cycle, islice
from random import Random

import aiohttp

from orchestrator.demo.workload import traffic

CUT, UNCONNECTED, UNANSWERED = 0, -1, -2  # instead of a status: closed under the request, refused, nothing in time
PATIENCE_S = 60.0
QUESTIONS = 512


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    asked_s: float
    over_s: float
    status: int
    request_id: str = ""
    route: str = ""
    degraded: bool = False


def play(url: str, per_s: float, seconds: float, seed: int) -> list[Outcome]:
    """Ask the endpoint ``url`` so often for so long; returns when the last request is over."""
    command = [sys.executable, "-m", "benchmarks.soak.load", url, str(per_s), str(seconds), str(seed)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Outcome(*json.loads(line)) for line in said.splitlines()]


async def ask_all(url: str, per_s: float, seconds: float, seed: int) -> Sequence[Outcome]:
    """Every request, at its time."""
    bodies, rng = cycle(list(islice(_bodies(seed), QUESTIONS))), Random(seed)
    limits = {"timeout": aiohttp.ClientTimeout(PATIENCE_S), "connector": aiohttp.TCPConnector(limit=0)}
    async with aiohttp.ClientSession(**limits) as client, asyncio.TaskGroup() as group:  # type: ignore[arg-type]
        asked, at_s = [], time.monotonic()
        ends_s = at_s + seconds
        while (at_s := at_s + rng.expovariate(per_s)) < ends_s:
            await asyncio.sleep(at_s - time.monotonic())
            asked.append(group.create_task(_ask(client, f"{url}/chat/completions", next(bodies))))
    return [task.result() for task in asked]


async def _ask(client: aiohttp.ClientSession, url: str, body: bytes) -> Outcome:
    asked_s = time.monotonic()
    try:
        async with client.post(url, data=body, headers={"content-type": "application/json"}) as reply:
            said = await reply.json()
    except TimeoutError:
        return Outcome(asked_s, time.monotonic(), UNANSWERED)
    except aiohttp.ClientConnectorError:
        return Outcome(asked_s, time.monotonic(), UNCONNECTED)
    except aiohttp.ClientError:
        return Outcome(asked_s, time.monotonic(), CUT)
    info, name = said.get("netgpt") or {}, reply.headers.get("x-request-id", "")
    return Outcome(
        asked_s, time.monotonic(), reply.status, name, str(info.get("route", "")), bool(info.get("degraded"))
    )


def _bodies(seed: int) -> Iterator[bytes]:
    for task in traffic(seed):
        yield json.dumps({"model": "netgpt", "messages": list(task.messages), "tools": list(task.tools)}).encode()


def main() -> None:
    """The command line: one JSON array a request."""
    url, per_s, seconds, seed = sys.argv[1:]
    for outcome in asyncio.run(ask_all(url, float(per_s), float(seconds), int(seed))):
        sys.stdout.write(json.dumps(astuple(outcome)) + "\n")


if __name__ == "__main__":
    main()
