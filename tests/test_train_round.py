"""``netgpt train round`` from end to end, on a model small enough to train here."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_learner import OPTIONS, PARENT, record, write
from tiny_model import tiny_model_dir

from actors.model_store import ModelStore
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
    assert sorted(path.name for path in config.var.iterdir()) == ["models"]


def test_a_log_that_is_not_there_or_too_small_is_said(tmp_path: Path, config: Config) -> None:
    with pytest.raises(BadConfig, match="no such log"):
        train_round(tmp_path / "nowhere", config, Console(file=io.StringIO()))
    write(tmp_path / "few", [record(1)])
    assert "1 labelled records, 20 are needed" in train_round(tmp_path / "few", config, Console(quiet=True)).reason
