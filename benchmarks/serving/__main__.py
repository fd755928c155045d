"""What a gateway costs in front of an upstream that answers at once.

Ours drafts from that upstream (a remote engine with log-probabilities), validates, scores, decides and logs every
request in Arrow, with its syncs; the peers forward. Each gateway runs alone with the upstream and ``wrk``: the median
over rounds of the latency at one connection, the rate and the processor time a request of its whole process tree at 32.
Peers that are not installed beside this Python, or where ``$PEERS`` points to, are left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, at_least, at_most, parser, publish
from benchmarks.serving.gateways import Gateway, gateways, uvicorn
from benchmarks.serving.load import Burst, burst, first_byte_ms, memory_mb, running, until_it_answers
from cluster.session import free_port

P50_MS, PER_S, CPU_MS, FIRST_BYTE_MS = 0.5, 3000.0, 0.35, 1.0
MANY = 32


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed. Fix: apt-get install wrk", file=sys.stderr)
        return 2
    rounds, seconds = (1, 2.0) if options.quick else (5, 5.0)
    behind = free_port()
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as directory, running(uvicorn("upstream", behind), behind):
        for gateway in gateways(f"http://127.0.0.1:{behind}/v1", Path(directory)):
            found += measured(gateway, rounds, seconds)
    return publish("What a gateway costs", found, options)


def measured(gateway: Gateway, rounds: int, seconds: float) -> Iterator[Figure]:
    """The figures of one gateway."""
    port = gateway.port
    url = f"http://127.0.0.1:{port}{gateway.path}"
    with running(gateway.command, port, **gateway.environment) as process:
        until_it_answers(port, gateway.path, gateway.key)
        burst(url, MANY, seconds, process, gateway.key)  # warm
        alone = [burst(url, 1, seconds, process, gateway.key) for _ in range(rounds)]
        together = [burst(url, MANY, seconds, process, gateway.key) for _ in range(rounds)]
        first = first_byte_ms(port, gateway.path, 200, gateway.key) if gateway.streams else None
        memory = memory_mb(process)
    yield from _figures(gateway, alone, together, first)
    yield Figure(f"{gateway.name}: resident memory", memory, "MiB")
    yield at_most(f"{gateway.name}: errors", sum(one.errors for one in (*alone, *together)), "count", 0)


def _figures(gateway: Gateway, alone: list[Burst], together: list[Burst], first: float | None) -> Iterator[Figure]:
    p50, per_s = median(one.p50_ms for one in alone), median(one.per_s for one in together)
    cpu, name = median(one.cpu_ms for one in together), gateway.name
    if gateway.ours:
        yield at_most(f"{name}: p50, one connection", p50, "ms", P50_MS)
        yield at_least(f"{name}: requests a second, {MANY} connections", per_s, "1/s", PER_S)
        yield at_most(f"{name}: processor time a request", cpu, "ms", CPU_MS)
    else:
        yield Figure(f"{name}: p50, one connection", p50, "ms")
        yield Figure(f"{name}: requests a second, {MANY} connections", per_s, "1/s")
        yield Figure(f"{name}: processor time a request", cpu, "ms")
    yield Figure(f"{name}: p99, {MANY} connections", median(one.p99_ms for one in together), "ms")
    if first is not None:
        target = at_most if gateway.ours else None
        words = f"{name}: first streamed byte"
        yield target(words, first, "ms", FIRST_BYTE_MS) if target else Figure(words, first, "ms")


if __name__ == "__main__":
    sys.exit(main())
