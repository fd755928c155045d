"""``netgpt serve`` killed with -9 as a whole while it answers, swaps and trains; then started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults_kit import asking, logged, successor, title_of, until
from test_http import listening
from test_site import Endpoint

from actors.model_store import ModelStore
from orchestrator import control, run_file
from orchestrator.config import Config, parse_config
from orchestrator.yaml_file import Document
from policies.errors import NetGPTError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parent.parent
UNACKNOWLEDGED_S = 0.5  # an answer does not wait for its record, which reaches the disk some 20 ms later
GONE_S = 90.0  # Ray's agents, and a worker that was just starting, look for a dead GCS for a minute


@pytest.fixture
def cloud_url() -> Iterator[str]:
    """A cloud that has the same answer for everybody, on a loop of its own."""
    ready, over = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with listening(Endpoint("Done.")) as url:
            found.append(url)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10.0)
    yield found[0]
    over.set()
    thread.join(10.0)


def settings(tmp_path: Path, cloud_url: str) -> dict[str, Any]:
    """A site on free ports that learns as soon as it has 20 labels; every request is for the cloud."""
    return {
        "var": str(tmp_path / "var"),
        "site": {"port": 0, "audit_rate": 0.0},
        "cloud": {"kind": "openai", "model": "netgpt", "base_url": f"{cloud_url}/v1"},
        "link": {"kind": "direct"},
        "policy": {"kind": "fixed", "value": 1.0},
        "learner": {"after_labels": 20, "pause_minutes": 0.001, "min_samples": 20, "steps": 100_000},
        "ray": {"dashboard_port": 0, "temp_dir": "/tmp/netgpt-killed"},
    }


@contextmanager
def serving(file: Path, config: Config) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``netgpt serve`` and its run file; interrupted at the end if it still runs."""
    command = [sys.executable, "-m", "orchestrator.cli", "serve", "-c", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, text=True)
    try:
        until("netgpt serve runs", lambda: process.poll() is not None or _pid(config) == process.pid)
        assert process.poll() is None, "netgpt serve ended early"
        yield process, run_file.read(config.run_file)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60.0)


def _pid(config: Config) -> int | None:
    try:
        return int(run_file.read(config.run_file)["pid"])
    except NetGPTError:
        return None


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def test_a_system_that_is_killed_in_a_swap_and_a_round_starts_again_with_all_it_had_acknowledged(
    tmp_path: Path, cloud_url: str
) -> None:
    file, given = tmp_path / "site.yaml", settings(tmp_path, cloud_url)
    file.write_text(json.dumps(given))  # JSON is YAML
    config = parse_config(Document(None, given, {}))
    store = ModelStore(config.store_dir, config.store.keep)
    with serving(file, config) as (process, record), asking(record["endpoint"]) as asked:
        until("answers", lambda: len(asked) > 40)
        until("a training worker", lambda: any("RayTrainWorker" in title_of(child) for child in family(process)))
        assert store.release is not None
        before, version = store.release.live, successor(store, tmp_path, "next")
        acknowledged = set(logged(config.log_dir))
        ordering = threading.Thread(target=_promote, args=(config, version.version))
        ordering.start()
        children = family(process)
        os.kill(process.pid, signal.SIGKILL)
        ordering.join(60.0)
        killed_s = max(one.over_s for one in asked if one.status)
    assert {one.status for one in asked} <= {0, 200}
    with serving(file, config) as (process, record), asking(record["endpoint"], clients=1) as again:
        until("answers", lambda: len(again) > 10)
        live = store.release.live
        assert live in (before, version.version)
        store.get(live)
    assert {(one.status, one.version) for one in again} == {(200, live)}
    found = logged(config.log_dir)
    lost = [one for one in asked if one.status == 200 and one.request_id not in set(found)]
    assert len(found) == len(set(found)) and acknowledged <= set(found) and len(acknowledged) > 20
    assert {one.request_id for one in again} <= set(found)
    assert all(killed_s - one.over_s < UNACKNOWLEDGED_S for one in lost), lost
    until("nobody is left behind", lambda: not [child for child in children if child.is_running()], GONE_S)


def _promote(config: Config, version: str) -> None:
    try:
        control.send(config.control_file, "promote", version)
    except NetGPTError:
        return  # cut off, as it should be
