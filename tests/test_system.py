"""The whole system with its real models: served, asked, played, swapped under load, interrupted."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI
from rich.console import Console

from actors.log_record import from_table
from actors.offload_log import read_log
from cluster.link_emulator import LinkSpec
from orchestrator import run_file
from orchestrator.config import Config
from orchestrator.demo.live import Screen
from orchestrator.demo.run import Demo, demo_config
from orchestrator.demo.workload import stages
from orchestrator.system import System
from orchestrator.tasks.generator import Split, tasks
from policies.errors import NetGPTError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parent.parent
START_S = 240.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    config = demo_config(tmp_path_factory.mktemp("var"))
    learner = config.learner.model_copy(update={"steps": 20, "min_samples": 20})
    screen = Screen(Console(file=io.StringIO()))  # with all its locks: nothing of it may travel to an actor
    live = System(config.model_copy(update={"learner": learner}), screen.stage)
    live.start()
    yield live
    live.stop()


def ask(system: System, count: int, seed: int = 5) -> list[Any]:
    stream = tasks(seed, Split.TEST)
    with OpenAI(base_url=system.urls.endpoint, api_key="none", max_retries=0, timeout=30.0) as client:
        asked: list[Any] = []
        for _ in range(count):
            task = next(stream)
            messages, tools = list(task.messages), list(task.tools)
            completion = client.chat.completions.create(model="netgpt", messages=messages, tools=tools)  # type: ignore[call-overload]
            asked.append(completion.model_extra["netgpt"])
        return asked


def test_requests_are_answered_by_both_and_each_is_logged_once(system: System) -> None:
    routes = [info["route"] for info in ask(system, 40)]
    assert {"edge", "cloud"} == set(routes)
    deadline = time.monotonic() + 20
    while system.gauges()["log_lag"] and time.monotonic() < deadline:
        time.sleep(0.2)
    records = from_table(read_log(system.config.log_dir))
    assert len({record.request_id for record in records}) == len(records)
    assert sum(record.route == "cloud" for record in records) >= routes.count("cloud")
    assert all(record.cloud for record in records if record.route == "cloud")


def test_a_cut_link_is_seen_and_the_edge_answers_alone(system: System) -> None:
    wide = LinkSpec("wide", up=50e6, down=100e6, delay_ms=5.0)
    system.set_link(replace(wide, outage=True))
    deadline = time.monotonic() + 30
    while system.gauges()["link_up"] and time.monotonic() < deadline:
        time.sleep(0.2)
    began = time.monotonic()
    infos = ask(system, 12, seed=6)
    assert {info["route"] for info in infos} == {"edge"}
    assert time.monotonic() - began < 12
    system.set_link(wide)
    while not system.gauges()["link_up"] and time.monotonic() < deadline + 30:
        time.sleep(0.2)
    assert system.gauges()["link_up"]


def test_the_demo_writes_its_summary_and_its_report(system: System) -> None:
    given = tuple(replace(stage, requests=12) for stage in stages())
    screen = Screen(Console(file=io.StringIO()))
    with screen:
        Demo(system.config, 0, screen, given).run(system)
    summary = json.loads((system.config.var / "summary.json").read_text())
    assert [phase["name"] for phase in summary["phases"]] == ["before", "after"]
    for phase in summary["phases"]:
        assert phase["requests"] == 60
        assert set(phase["by_link"]) == {stage.link.name for stage in given}
        assert phase["success"] > 0.5
        assert phase["by_link"]["outage"]["offload_rate"] == 0.0
    assert summary["learner"]["gate"]
    page = (system.config.var / "report.html").read_text()
    assert page.count("<svg") == 4
    assert re.search(r"""(src|href)=["']?http|url\(["']?http|@import""", page) is None  # self-contained


def test_new_weights_go_live_under_load_and_damaged_ones_do_not(system: System, tmp_path: Path) -> None:
    old = system.store.latest("edge")
    assert old is not None
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for file in old.path.iterdir():
        if file.name != "MANIFEST.json" and file.is_file():
            (candidate / file.name).write_bytes(file.read_bytes())
    config = json.loads((candidate / "config.json").read_text())
    (candidate / "config.json").write_text(json.dumps(config | {"note": "the same weights under another name"}))
    version = system.store.publish(candidate, "edge", old.version, {})
    report = system.swap(version)
    assert (report.outcome, report.version) == ("live", version.version)
    assert report.gap_s < 0.25
    assert {info["edge_version"] for info in ask(system, 3, seed=7)} == {version.version}
    damaged = system.store.publish(candidate, "edge", version.version, {"note": "before the disk failed"})
    (damaged.path / "model.safetensors").write_bytes(b"not what it was")
    with pytest.raises(NetGPTError, match="fails its checksum"):
        system.swap(damaged)
    assert {info["edge_version"] for info in ask(system, 3, seed=8)} == {version.version}


def test_serve_answers_status_and_ask_and_ends_without_a_trace(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    ports = {"site": {"port": 0}, "ray": {"dashboard_port": 0, "temp_dir": "/tmp/netgpt-serve"}}
    config.write_text(json.dumps({"var": str(tmp_path / "var"), **ports}))  # JSON is YAML
    command = [sys.executable, "-m", "orchestrator.cli"]
    serving = subprocess.Popen([*command, "serve", "-c", str(config)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    family: list[psutil.Process] = []
    try:
        record = _running(Config(var=tmp_path / "var").run_file, serving)
        family = psutil.Process(serving.pid).children(recursive=True)
        assert httpx.get(record["endpoint"].removesuffix("/v1") + "/readyz").status_code == 200
        assert os.stat(tmp_path / "var" / "run.json").st_mode & 0o077 == 0
        question = ["migrate slice s-204 to harbor", "--tools", "examples/tools.json", "--route", "edge"]
        asked = _run([*command, "ask", *question, "-c", str(config)])
        assert "score" in asked
        assert "version edge-0001" in asked
        shown = _run([*command, "status", "-c", str(config)])
        assert "ready" in shown
        assert record["dashboard"] in shown
    finally:
        serving.send_signal(signal.SIGINT)
        output, _ = serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert "stopping" in output
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process.name() for process in alive] == []
    for url in (record["endpoint"], record["cloud"], record["dashboard"]):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 80), timeout=2)
    assert not (tmp_path / "var" / "run.json").exists()


def _running(file: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "netgpt serve ended early"
        if file.exists():
            return run_file.read(file)
        time.sleep(0.5)
    raise AssertionError(f"netgpt serve was not up within {START_S} s")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
