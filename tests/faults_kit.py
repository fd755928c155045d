"""What tests of faults need of a running system: clients that never stop asking, kills, versions, what is logged."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from actors.model_store import MANIFEST, ModelStore, ModelVersion
from actors.offload_log import read_log
from orchestrator.tasks.generator import Split, tasks

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was over, and what became of it; ``status`` 0 is a connection refused or closed."""

    over_s: float
    status: int
    request_id: str = ""
    version: str = ""
    route: str = ""
    degraded: bool = False


@contextmanager
def asking(url: str, clients: int = 3, **controls: str) -> Iterator[list[Asked]]:
    """Clients that ask until the block ends; the list grows meanwhile."""
    asked: list[Asked] = []
    over = threading.Event()

    def ask(seed: int) -> None:
        stream = tasks(seed, Split.TEST)
        with httpx.Client(timeout=30.0, trust_env=False) as client:
            while not over.is_set():
                asked.append(ask_once(client, url, next(stream), **controls))
                over.wait(0.02 if asked[-1].status else 0.2)

    threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join(40.0)
    assert not any(thread.is_alive() for thread in threads), "a request was never answered"


def ask_once(client: httpx.Client, url: str, task: Any, **controls: str) -> Asked:
    body: dict[str, Any] = {"model": "netgpt", "messages": list(task.messages), "tools": list(task.tools)}
    try:
        reply = client.post(f"{url}/chat/completions", json=body | ({"netgpt": controls} if controls else {}))
    except httpx.TransportError:
        return Asked(time.monotonic(), 0)
    info = reply.json().get("netgpt", {}) if reply.status_code == 200 else {}
    name, version = reply.headers.get("x-request-id", ""), str(info.get("edge_version", ""))
    route, degraded = str(info.get("route", "")), bool(info.get("degraded"))
    return Asked(time.monotonic(), reply.status_code, name, version, route, degraded)


def until(what: str, happens: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def kill(title: str) -> float:
    """kill -9 the one process of that title below this one; when that was."""
    (process,) = [found for found in psutil.Process().children(recursive=True) if title_of(found) == title]
    process.kill()
    return time.monotonic()


def title_of(process: psutil.Process) -> str:
    """Ray writes what a worker is into its command line, padded."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def successor(store: ModelStore, scratch: Path, note: str) -> ModelVersion:
    """The weights that are live, published again under another name."""
    assert store.release is not None
    live = store.read(store.release.live)
    directory = scratch / note
    shutil.copytree(live.path, directory, ignore=shutil.ignore_patterns(MANIFEST))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | {"note": note}), encoding="utf-8")
    return store.publish(directory, "edge", live.version, {})


def logged(log_dir: Path) -> list[str]:
    """The ids of the requests in the log."""
    ids: list[str] = read_log(log_dir)["request_id"].to_pylist()
    return ids
