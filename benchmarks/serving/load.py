"""Load from ``wrk`` (a Debian package), processor time of process trees, and time to a stream's first byte."""

from __future__ import annotations

import http
import http.client
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

BODY = {
    "model": "upstream",
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "max_tokens": 64,
}
READY_S = 90.0
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = [[%s]]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%f %%f %%f\\n", summary.requests, e.status + e.connect + e.read + e.write +
    e.timeout, summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Burst:
    """What one run of wrk saw, and what the gateway's processes spent on it."""

    requests: int
    errors: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[psutil.Process]:
    """A server while the block runs, from when it takes connections on; its whole process tree ends with it."""
    with tempfile.TemporaryFile() as said:
        server = psutil.Popen(command, stdout=said, stderr=said, env={**psutil.Process().environ(), **environment})
        try:
            _wait(server, port)
            yield server
        except BaseException:
            said.seek(0)
            print(said.read().decode(errors="replace")[-2000:])
            raise
        finally:
            tree = _tree(server)
            for process in tree:
                process.kill()
            psutil.wait_procs(tree, READY_S)
            _until_free(port)


def until_it_answers(port: int, path: str, key: str = "none") -> None:
    """Wait for a gateway whose port is open before it can answer."""
    headers, until = {"content-type": "application/json", "authorization": f"Bearer {key}"}, time.monotonic() + READY_S
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
        try:
            connection.request("POST", path, json.dumps(BODY), headers)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            pass  # not yet
        finally:
            connection.close()
        time.sleep(0.2)
    raise TimeoutError(f"nothing answers on {port}")


def burst(url: str, connections: int, seconds: float, gateway: psutil.Process, key: str = "none") -> Burst:
    """Ask ``url`` over ``connections`` at once for ``seconds``."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "chat.lua")
        script.write_text(SCRIPT % (key, json.dumps(BODY)), encoding="utf-8")
        before = _cpu_s(gateway)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        spent = _cpu_s(gateway) - before
    found = re.search(r"RESULT (\d+) (\d+) (\S+) (\S+) (\S+)", said)
    assert found, said
    requests, per_s, p50_ms, p99_ms = int(found[1]), *map(float, found.group(3, 4, 5))
    return Burst(requests, int(found[2]), per_s, p50_ms, p99_ms, 1e3 * spent / max(requests, 1))


def first_byte_ms(port: int, path: str, count: int, key: str = "none") -> float:
    """Median milliseconds from a streamed request to the first byte of its body, one after the other."""
    body = json.dumps({**BODY, "stream": True})
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    connection, found = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        reply.read(1)
        found.append(time.perf_counter() - began)
        reply.read()
    connection.close()
    return 1e3 * median(found)


def memory_mb(gateway: psutil.Process) -> float:
    """Resident memory of the process tree."""
    return float(sum(process.memory_info().rss for process in _tree(gateway)) / 2**20)


def _cpu_s(gateway: psutil.Process) -> float:
    times = [process.cpu_times() for process in _tree(gateway)]
    return float(sum(t.user + t.system for t in times))


def _tree(gateway: psutil.Process) -> list[psutil.Process]:
    return [gateway, *gateway.children(recursive=True)]


def _until_free(port: int) -> None:
    """Wait until nobody listens on ``port``: a process that left the tree may take its time."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.2)
    raise TimeoutError(f"something still listens on {port}")


def _wait(server: psutil.Popen, port: int) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"{server.args!r} ended")
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"{server.args!r} does not listen on {port}")
