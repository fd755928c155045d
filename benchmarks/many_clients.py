"""Tokens a second with many clients at once: the bare engine's, and the same engine's behind its endpoint.

Both are asked the same requests, each of so many askers taking the next when its last is answered. The clients of the
endpoint are one process with a connection each, since that is how a site is used, and so cost the engine what a second
process on its machine costs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from statistics import median

from actors.chat import ChatRequest
from actors.engine import Engine

ASKERS = 32
CLIENTS = """
import asyncio, json, sys, time
import aiohttp
port, askers = int(sys.argv[1]), int(sys.argv[2])
bodies = iter(sys.stdin.readlines())
tokens = 0

async def keep_asking(client):
    global tokens
    for body in bodies:
        async with client.post("/v1/chat/completions", data=body.encode()) as reply:
            said = await reply.json()
            assert reply.status == 200, said
            tokens += said["usage"]["completion_tokens"]

async def main():
    connector = aiohttp.TCPConnector(limit=askers)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as client:
        began = time.perf_counter()
        await asyncio.gather(*(keep_asking(client) for _ in range(askers)))
        print(tokens / (time.perf_counter() - began))

asyncio.run(main())
"""


async def tokens_per_s(
    engine: Engine, port: int, requests: Sequence[ChatRequest], bodies: Sequence[bytes], rounds: int
) -> tuple[float, float]:
    """Of the bare engine and of the endpoint: medians over rounds in turn."""
    await _bare(engine, requests)  # fills the prefix cache
    found = [(await _bare(engine, requests), await _served(port, bodies)) for _ in range(rounds)]
    return median(bare for bare, _ in found), median(served for _, served in found)


async def _bare(engine: Engine, requests: Sequence[ChatRequest]) -> float:
    left, tokens, began = iter(requests), 0, time.perf_counter()

    async def keep_asking() -> None:
        nonlocal tokens
        for request in left:
            made = await engine.generate(request.prompt, request.sampling)
            tokens += made.completions[0].tokens

    await asyncio.gather(*(keep_asking() for _ in range(ASKERS)))
    return tokens / (time.perf_counter() - began)


async def _served(port: int, bodies: Sequence[bytes]) -> float:
    arguments = (sys.executable, "-c", CLIENTS, str(port), str(ASKERS))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    said, _ = await process.communicate(b"\n".join(bodies))
    if process.returncode:
        raise RuntimeError("the clients failed")
    return float(json.loads(said))
