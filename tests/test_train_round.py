"""``netgpt train round`` from end to end, on a model small enough to train here."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from test_learner import OPTIONS, PARENT, accepted, record, write
from test_remote_engine import Cloud, completion, listening
from tiny_model import tiny_model_dir

from actors.model_store import ModelStore
from cluster.options import CloudOptions
from orchestrator.config import Config, default_config
from orchestrator.train_round import train_round
from policies.errors import BadConfig
from policies.release import started


@pytest.fixture
def config(tmp_path: Path) -> Config:
    directory = tiny_model_dir(tmp_path / "edge")
    (directory / "calibrator.json").write_text(PARENT.to_json())
    config = default_config(var=str(tmp_path / "var"), learner=OPTIONS.model_dump())
    ModelStore(config.store_dir).publish(directory)
    return config


def test_a_round_by_hand_publishes_a_child_of_what_is_live_and_changes_nothing_that_runs(
    tmp_path: Path, config: Config
) -> None:
    store, said = ModelStore(config.store_dir), Console(file=io.StringIO(), width=200)
    live = store.list()[0]
    store.record(started(None, live.version, 1))
    store.publish(live.path, parent=live.version)  # newer, but not live
    write(tmp_path / "elsewhere", [record(n) for n in range(100)])
    report = train_round(tmp_path / "elsewhere", config, said)
    assert report.version and report.version.parent == live.version, report.reason
    assert report.version.meta["log"] == {"a": [0, 99]}
    assert store.release == started(None, live.version, 1)
    assert f"netgpt models promote {report.version.version}" in said.file.getvalue()  # type: ignore[attr-defined]
    assert "the log alone judges" in said.file.getvalue()  # type: ignore[attr-defined]
    assert sorted(path.name for path in config.var.iterdir()) == ["models"]


def test_a_log_that_is_not_there_or_too_small_is_said(tmp_path: Path, config: Config) -> None:
    with pytest.raises(BadConfig, match="no such log"):
        train_round(tmp_path / "nowhere", config, Console(file=io.StringIO()))
    write(tmp_path / "few", [record(1)])
    assert "1 labelled records, 20 are needed" in train_round(tmp_path / "few", config, Console(quiet=True)).reason


async def test_the_gate_asks_the_endpoint_of_the_configuration_where_the_models_differ(
    tmp_path: Path, config: Config
) -> None:
    fake = Cloud()
    fake.answer = lambda body: completion(None, [("move", json.dumps({"to": "b"}))])
    write(tmp_path / "log", [record(n) if n % 8 else accepted(n) for n in range(200)])
    async with listening(fake.app) as port:
        cloud = CloudOptions(kind="openai", model="big", base_url=f"http://127.0.0.1:{port}/v1")
        there = config.model_copy(update={"cloud": cloud})
        report = await asyncio.to_thread(train_round, tmp_path / "log", there, Console(quiet=True))
    assert report.version is not None, report.reason
    assert 1 <= report.figures["gate_calls"] == len(fake.asked) <= config.learner.gate_calls
    assert {body["model"] for body in fake.asked} == {"big"}


def test_a_key_that_is_missing_is_said_before_anything_is_trained(tmp_path: Path, config: Config) -> None:
    write(tmp_path / "log", [record(n) for n in range(100)])
    cloud = CloudOptions(kind="openai", model="big", base_url="http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY")
    with pytest.raises(BadConfig, match="NO_SUCH_KEY is not set"):
        train_round(tmp_path / "log", config.model_copy(update={"cloud": cloud}), Console(quiet=True))
