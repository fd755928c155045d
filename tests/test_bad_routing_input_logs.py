"""A hostile user's logs and targets, by the real command: one sentence, exit code 2, never a silent threshold.

Covered elsewhere: policies and targets that do not exist (``test_replay_command``); what a scorer is not learnt from
(``test_train_scorer``); labels that all agree, too few of them (``test_train_policy``); torn tails and
changed bytes of a segment (``test_offload_log``).
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bad_routing_input import netgpt
from test_replay_command import LINKS, records, write
from tiny_model import tiny_model_dir

from actors.log_files import segment_path
from actors.log_record import OffloadRecord, to_batch
from actors.log_segment import encode
from actors.model_store import ModelStore
from actors.offload_log import compact, read_log
from orchestrator.cli import main
from orchestrator.config import load_config
from orchestrator.replay.reading import read
from policies.errors import LogError
from policies.policy_file import save
from policies.threshold import FixedThreshold
from policies.types import LinkState, Prices

GIVEN = records(60, 9, LINKS)
LABELLED = next(index for index, record in enumerate(GIVEN) if record.cloud is not None)
Say = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """The one sentence of a command that fails, run in this process."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["netgpt", *map(str, arguments)])
        capsys.readouterr()  # what was said before is not the command's
        with pytest.raises(SystemExit) as left:
            main()
        lines = capsys.readouterr().err.strip().splitlines()
        assert left.value.code == 2 and len(lines) == 1 and lines[0].startswith("netgpt: "), lines
        return lines[0]

    return run


@pytest.fixture
def served(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """What a command that works prints."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["netgpt", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
        return capsys.readouterr().out

    return run


def changed(**change: Any) -> list[OffloadRecord]:
    """The records with one labelled record more that is as ``change`` has it."""
    return [*GIVEN, replace(GIVEN[LABELLED], **change)]


def all_of(**change: Any) -> list[OffloadRecord]:
    return [replace(record, **change) for record in GIVEN]


def part(root: Path) -> Path:
    """A log whose only file is a Parquet part; returns the part."""
    compact(write(root, GIVEN))
    return next((root / "site=a").glob("part-*"))


def empty(root: Path) -> None:
    root.mkdir()


def no_directory(root: Path) -> None:
    root.write_text("a log")


def a_file_for_a_site(root: Path) -> None:
    root.mkdir()
    (root / "site=a").write_text("a log")


def a_directory_for_a_segment(root: Path) -> None:
    segment_path(root / "site=a", 0).mkdir(parents=True)


def garbage(root: Path) -> None:
    (root / "site=a").mkdir(parents=True)
    segment_path(root / "site=a", 0).write_bytes(b"garbage" * 1000)


def cut_part(root: Path) -> None:
    path = part(root)
    path.write_bytes(path.read_bytes()[:-100])


def no_label(root: Path) -> None:
    write(root, all_of(cloud=None, route="edge", reason="score_passed", propensity=0.05))


NO_DIRECTORY, NO_RECORD, UNREADABLE = "there is no such directory", "no record is in it", "cannot be read: "
SAYS_NOTHING: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: None, NO_DIRECTORY),
    (empty, NO_RECORD),
    (no_directory, NO_DIRECTORY),
    (a_file_for_a_site, NO_RECORD),
    (a_directory_for_a_segment, UNREADABLE),
    (garbage, NO_RECORD),
    (cut_part, UNREADABLE),
    (no_label, "holds an answer of the cloud"),
]


@pytest.mark.parametrize(("make", "says"), SAYS_NOTHING)
def test_a_log_that_says_nothing_is_refused_by_every_command(
    tmp_path: Path, refused: Say, make: Callable[[Path], object], says: str
) -> None:
    config, log = tmp_path / "site.yaml", tmp_path / "log"
    config.write_text(f"var: {tmp_path}\n")
    make(log)
    ModelStore(load_config(config).store_dir).publish(tiny_model_dir(tmp_path / "tiny"))
    for arguments in (("replay", log, "-c", config), ("train", "policy", log, "--out", tmp_path / "policy.json")):
        line = refused(*arguments)
        assert str(log) in line and says in line
    line = refused("train", "scorer", "preference", "-c", config)
    assert says in line if says == UNREADABLE else "0 drafts" in line and "are needed. Fix: " in line
    assert not (tmp_path / "policy.json").exists() and not (tmp_path / "replay").exists()


TINY = 1e-320
NO_SENSE: list[tuple[dict[str, Any], str]] = [
    ({"cost_usd": math.nan}, "cost_usd must lie in [0, 1e+09], got nan"),
    ({"cost_usd": -1.0}, "cost_usd must lie in [0, 1e+09], got -1"),
    ({"link": LinkState(1e308, 1e6, 1e6)}, "link.rtt_ms must lie in [0, 1e+09], got 1e+308"),
    ({"link": LinkState(10.0, math.inf, 1e6)}, "link.up_bps must lie in [0, 1e+15], got inf"),
    ({"link": LinkState(10.0, 1e6, -1.0)}, "link.down_bps must lie in"),
    ({"link": LinkState(10.0, 1e6, 1e6, jitter_ms=math.nan)}, "link.jitter_ms must lie in"),
    ({"link": LinkState(10.0, 1e6, 1e6, loss=3.0)}, "link.loss must lie in [0, 1], got 3"),
    ({"prices": Prices(1e308, 1e308)}, "prices.request_usd must lie in [0, 1e+09], got 1e+308"),
    ({"prices": Prices(output_usd_per_mtok=math.inf)}, "prices.output_usd_per_mtok must lie in"),
    ({"queue_s": math.inf}, "queue_s must lie in"),
    ({"score": math.nan}, "score must lie in [0, 1], got nan"),
    ({"score": -0.5}, "score must lie in"),
    ({"propensity": math.nan}, "propensity must lie in [0, 1], got nan"),
    ({"propensity": -1.0}, "propensity must lie in [0, 1], got -1"),
    ({"propensity": TINY}, "propensity must lie in [1e-09, 1], got"),
    ({"prompt_tokens": -5}, "prompt_tokens must lie in"),
    ({"draft_tokens": 10**18}, "draft_tokens must lie in"),
    ({"cloud_input_tokens": 5, "cloud_cached_tokens": 6}, "cloud_cached_tokens must lie in [0, 5], got 6"),
]


@pytest.mark.parametrize(("change", "says"), NO_SENSE, ids=[says.split(" must")[0] for _, says in NO_SENSE])
def test_a_record_that_makes_no_sense_is_left_out_counted_and_said(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """One poisoned record among many changes no figure; a log of such records alone is refused."""
    whole = read(write(tmp_path / "whole", GIVEN))
    found = read(write(tmp_path / "log", changed(**change)))
    (why,) = found.left_out
    assert says in why and found.left_out[why] == 1
    assert found.logged.amounts.tolist() == whole.logged.amounts.tolist()
    assert found.logged.states == whole.logged.states and not whole.left_out
    with pytest.raises(LogError, match=re.escape(says)):
        read(write(tmp_path / "bad", all_of(**{"cloud": "It is 5.", "propensity": 1.0, **change})))


@pytest.mark.parametrize("change", [{"prices": Prices(1e308, 1e308)}, {"link": LinkState(1e308, 1e6, 1e6)}])
def test_every_command_says_what_it_left_out(tmp_path: Path, served: Say, change: dict[str, Any]) -> None:
    given = records(300, 9, LINKS)
    log = write(tmp_path / "log", [*given, replace(given[0], **change)])
    for arguments in (
        ("replay", log, "--out", tmp_path / "out", "--policy", "optimal", "--suggest", "success=0.5"),
        ("train", "policy", log, "--kind", "funcdyn", "--out", tmp_path / "policy.json"),
    ):
        assert "Records that make no sense are left out, 1 in all: " in served(*arguments)
    written = [json.loads((tmp_path / name).read_text()) for name in ("out/replay.json", "policy.json")]
    assert list(written[0]["left_out"].values()) == list(written[1]["fitted"]["left_out"].values()) == [1]
    write(tmp_path / "whole", given)
    served("replay", tmp_path / "whole", "--out", tmp_path / "again", "--policy", "optimal")
    assert figures(tmp_path / "again") == figures(tmp_path / "out")


def test_a_path_no_file_can_have_is_said_in_one_sentence(tmp_path: Path, refused: Say) -> None:
    path = tmp_path / ("a" * 300)
    for command in (("replay",), ("train", "policy")):
        assert f"{path}: {NO_DIRECTORY}" in refused(*command, path)


def figures(out: Path) -> Any:
    return json.loads((out / "replay.json").read_text())["rows"]


def test_a_threshold_that_was_logged_wrongly_decides_nothing(tmp_path: Path, served: Say) -> None:
    """What a rule would do follows from the score and its own threshold; the logged one is for people."""
    for name, given in (("good", GIVEN), ("bad", all_of(threshold=math.nan))):
        served("replay", write(tmp_path / name, given), "--out", tmp_path / f"{name}-out", "--policy", "optimal")
    assert figures(tmp_path / "good-out") == figures(tmp_path / "bad-out")


@pytest.mark.parametrize(
    "given",
    [
        all_of(score=0.1, route="cloud", reason="score_below", propensity=1.0, cloud="It is 5."),
        [replace(record, cloud=record.draft, propensity=1.0) for record in GIVEN],
        all_of(draft_error="no such tool", cloud="It is 5.", propensity=1.0),
        [GIVEN[LABELLED]],
    ],
    ids=["all cloud", "all agree", "all invalid", "one record"],
)
def test_a_log_that_says_little_is_replayed_without_a_number_that_is_none(
    tmp_path: Path, served: Say, given: Sequence[OffloadRecord]
) -> None:
    shown = served("replay", write(tmp_path / "log", given), "--out", tmp_path / "out", "--policy", "optimal")
    assert "nan" not in shown.lower() and "optimal" in shown


@pytest.mark.parametrize("column", ["draft_error", "draft", "draft_version", "route", "score", "site", "time_us"])
def test_a_part_of_another_version_is_left_out_and_never_read_as_nulls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    path = part(tmp_path / "log")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns([column]), path)
    write(tmp_path / "log", GIVEN[:7], "b")
    assert len(read_log(tmp_path / "log")) == 7
    assert f"{path}: left out, it was written by another version" in caplog.text


def test_a_part_with_a_column_of_another_type_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = part(tmp_path / "log")
    table = pq.read_table(path, partitioning=None)
    words = pa.array(map(str, table["score"].to_pylist()))
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", words), path)
    assert len(read_log(tmp_path / "log")) == 0 and "another version" in caplog.text


def test_a_segment_of_another_version_and_a_corrupt_one_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = write(tmp_path / "log", GIVEN)
    (log / "site=b").mkdir()
    old = to_batch([replace(record, site="b", seq=index) for index, record in enumerate(GIVEN)])
    old = old.drop_columns(["degraded"])
    segment_path(log / "site=b", 0).write_bytes(old.schema.serialize().to_pybytes() + encode(old))
    write(log, GIVEN, "c")
    broken = next((log / "site=c").glob("seg-*"))
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 255
    broken.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert set(read_log(log)["site"].to_pylist()) == {"a"}
    assert "site=b" in caplog.text and "another version" in caplog.text
    assert f"{broken}: its last " in caplog.text and "no whole records" in caplog.text


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("success=1", "no threshold reaches it on this log, the most is"),
        ("sucess=0.9", "unknown target. Fix: give one of success=NUMBER"),
        ("success=0,9", r"success must be a number in [0, 1]"),
        ("success=1e400", r"success must be a number in [0, 1]"),
        ("cost_usd_per_k=-0.1", "cost_usd_per_k must be a number >= 0"),
    ],
)
def test_a_target_that_cannot_be_had_is_refused(tmp_path: Path, refused: Say, target: str, says: str) -> None:
    log = write(tmp_path / "log", all_of(draft_error="no such tool", cloud="It is 5.", propensity=1.0))
    line = refused("replay", log, "--out", tmp_path / "out", "--suggest", target)
    assert f"--suggest {target}: " in line and says in line and "Fix: " in line


def test_a_policy_file_of_other_weights_or_none_at_all_is_refused(tmp_path: Path, refused: Say) -> None:
    log, path = write(tmp_path / "log", GIVEN), tmp_path / "policy.json"
    save(path, FixedThreshold(0.5), "edge-0007", {})
    for name, says in (
        (path, "score_version: fitted on the scores of 'edge-0007', but 'edge-0001' is scoring"),
        (tmp_path, "there is no such policy"),
        (tmp_path / f"{'a' * 300}.json", "there is no such file"),
    ):
        line = refused("replay", log, "--out", tmp_path / "out", "--policy", name)
        assert says in line and "Fix: " in line


def test_the_installed_command_says_the_same(tmp_path: Path) -> None:
    assert NO_RECORD in netgpt("replay", str(tmp_path))
    assert NO_DIRECTORY in netgpt("train", "policy", str(tmp_path / "nowhere"))
    assert "no edge version" in netgpt("train", "scorer", "ensemble", "-c", write_config(tmp_path))


def write_config(directory: Path) -> str:
    path = directory / "site.yaml"
    path.write_text(f"var: {directory}/var\n")
    return str(path)
