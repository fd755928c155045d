"""Clients that take their time, by intention or not, on real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from edge_fakes import NodeKit, until
from test_http import body

from orchestrator.endpoint.app import Surface
from orchestrator.endpoint.protocol import PatientProtocol
from orchestrator.site import HostedServer

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def connected(count: int = 1) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    config = uvicorn.Config(Surface(NodeKit().node), port=0, http=PatientProtocol, lifespan="off", log_config=None)
    server = HostedServer(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        yield ends
    finally:
        for _, writer in ends:
            writer.close()
        server.should_exit = True
        await task


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.endpoint.protocol.HEADERS_S", 0.4)
    monkeypatch.setattr("orchestrator.endpoint.asgi.BODY_S", 0.4)


async def closed_after(reader: asyncio.StreamReader) -> float:
    began = time.monotonic()
    with suppress(ConnectionResetError):  # a byte was still under way
        await asyncio.wait_for(reader.read(), 5.0)
    return time.monotonic() - began


async def test_who_says_nothing_is_let_go() -> None:
    async with connected() as [(reader, _)]:
        assert 0.2 < await closed_after(reader) < 2.0


async def test_who_drips_headers_is_let_go_and_does_not_delay_others() -> None:
    async with connected(50) as ends:

        async def drip(writer: asyncio.StreamWriter) -> None:
            for byte in HEAD:
                if writer.is_closing():
                    return
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)

        dripping = [asyncio.create_task(drip(writer)) for _, writer in ends[1:]]
        reader, writer = ends[0]
        text = json.dumps(body()).encode()
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(text) + text)
        assert (await asyncio.wait_for(reader.readline(), 1.0)).startswith(b"HTTP/1.1 200")
        took = await asyncio.gather(*(closed_after(one) for one, _ in ends[1:]))
        assert max(took) < 2.0
        await asyncio.gather(*dripping)


async def test_who_drips_a_body_is_told_so() -> None:
    async with connected() as [(reader, writer)]:
        writer.write(HEAD + b"content-length: 1000\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 3.0)).startswith(b"HTTP/1.1 408")
        rest = await asyncio.wait_for(reader.read(), 3.0)
        assert b"request_too_slow" in rest


async def test_a_connection_is_kept_for_the_next_request_whose_headers_have_their_own_time() -> None:
    async with connected() as [(reader, writer)]:
        text = json.dumps(body()).encode()
        whole = HEAD + b"content-length: %d\r\n\r\n" % len(text) + text
        for _ in range(2):
            writer.write(whole)
            assert (await asyncio.wait_for(reader.readline(), 1.0)).startswith(b"HTTP/1.1 200")
            while (line := await reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            await reader.readexactly(length)
            await asyncio.sleep(0.6)  # longer than headers may take, but no request has begun
        writer.write(HEAD[:20])
        assert 0.2 < await closed_after(reader) < 2.0


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * (1 << 20) + b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n"],
)
async def test_what_is_no_http_or_too_much_of_it_ends_the_connection(said: bytes) -> None:
    async with connected() as [(reader, writer)]:
        writer.write(said)
        try:
            answer = await asyncio.wait_for(reader.read(), 3.0)
        except ConnectionResetError:  # it was still sending
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 4")
