"""A hostile log, a full disk, jobs that die: a round says what it skipped and why, and what is live stays live.

Covered elsewhere: torn tails and changed bytes (``test_offload_log``); a Ray worker that dies (``test_train_job``);
single poisoned answers (``test_learner``); candidates that are bad themselves (``test_sabotage``).
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from test_learner import OPTIONS, PARENT, REFIT, TOOLS, call, record, scripted, write
from tiny_model import tiny_model_dir

from actors.log_files import segment_path, site_dir
from actors.log_record import SCHEMA, UNKNOWN, OffloadRecord, to_batch
from actors.log_segment import END, encode
from actors.model_store import ModelStore
from actors.offload_log import compact, read_log
from actors.training import TrainingJob, TrainingOutcome, run_job
from orchestrator.learner import Learner, RoundReport
from orchestrator.watching import LogTail
from policies.help_marker import HELP
from policies.release import started
from policies.types import Prices

GOOD = 100
YEAR_US = 365 * 86_400_000_000
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_model_dir(tmp_path_factory.mktemp("edge"))
    (directory / "calibrator.json").write_text(PARENT.to_json())
    return directory


class Plant:
    """A log and a store whose only version is live."""

    def __init__(self, root: Path, model: Path) -> None:
        self.log, self.work, self.store = root / "log", root / "work", ModelStore(root / "store")
        self.first = self.store.publish(model)
        self.store.record(started(None, self.first.version, 1))

    def round(self, train: Callable[[TrainingJob, str], TrainingOutcome] | None = None) -> RoundReport:
        train = train or scripted(call("b"))
        report = Learner(self.log, self.store, OPTIONS, self.work, train, REFIT).round()
        self.store.get(self.first.version)  # whole
        assert self.store.release == started(None, self.first.version, 1) and not self.work.exists()
        return report

    def skips(self, skipped: dict[str, int]) -> None:
        """A round learns from what is good, and says what it skipped: in the report, in words and in the lineage."""
        report = self.round()
        assert report.version, report.reason
        assert dict(report.poisoned) == report.version.meta["poisoned"] == skipped
        for why, count in skipped.items():
            assert f"{count} {why}" in report.reason
        assert report.gate and report.version.meta["samples"] + report.gate.figures["records"] == GOOD


@pytest.fixture
def plant(tmp_path: Path, model: Path) -> Plant:
    return Plant(tmp_path, model)


def good() -> list[OffloadRecord]:
    return [record(n) for n in range(GOOD)]


def segment(root: Path, site: str, batch: pa.RecordBatch, first: int = 0, end: bytes = END) -> Path:
    """A file as ``Segment`` writes it, of any schema; returns it."""
    site_dir(root, site).mkdir(parents=True, exist_ok=True)
    path = segment_path(site_dir(root, site), first)
    path.write_bytes(batch.schema.serialize().to_pybytes() + encode(batch) + end)
    return path


def old_columns(records: Sequence[OffloadRecord]) -> pa.RecordBatch:
    return to_batch(records).select([name for name in SCHEMA.names if name != "queue_s"])


def old_number(records: Sequence[OffloadRecord]) -> pa.RecordBatch:
    return to_batch(records).replace_schema_metadata({b"netgpt.log": b"1"})


# ---- files


@pytest.mark.parametrize("older", [old_columns, old_number])
def test_segments_of_another_version_of_the_log_are_counted_and_kept(
    plant: Plant, older: Callable[[Sequence[OffloadRecord]], pa.RecordBatch]
) -> None:
    write(plant.log, good())
    before = segment(plant.log, "a", older([replace(record(n), site="a", seq=n) for n in range(7)]), first=900)
    alone = segment(plant.log, "old", older([replace(record(n), site="old", seq=n) for n in range(5)]))
    plant.skips({"of another version of the log": 12})
    assert before.exists() and alone.exists()  # another version may read them


def test_compaction_never_hides_another_version_between_two_segments(tmp_path: Path) -> None:
    kept = segment(tmp_path, "a", old_number([replace(record(n), site="a", seq=n) for n in range(10, 20)]), first=10)
    for first in (0, 20):
        segment(tmp_path, "a", to_batch([replace(record(first), site="a", seq=first)]), first=first)
    assert [compact(tmp_path), compact(tmp_path), compact(tmp_path)][2] == []
    assert kept.exists() and read_log(tmp_path)["seq"].to_pylist() == [0, 20]


def test_files_that_are_cut_off_or_garbage_are_counted_and_the_rest_is_learnt_from(plant: Plant) -> None:
    write(plant.log, good())
    whole = segment(plant.log, "torn", to_batch([replace(record(1), site="torn", seq=0)]))
    whole.write_bytes(whole.read_bytes()[:-50])
    site_dir(plant.log, "junk").mkdir()
    segment_path(site_dir(plant.log, "junk"), 0).write_bytes(b"garbage" * 1000)
    (site_dir(plant.log, "junk") / f"part-{0:020d}-{9:020d}.parquet").write_bytes(b"PAR1 and no more")
    segment_path(site_dir(plant.log, "odd"), 0).mkdir(parents=True)
    report = plant.round()
    assert report.version, report.reason
    assert report.poisoned == {"torn end of a file": 1, "unreadable file": 2}


def test_a_file_that_cannot_be_read_does_not_stop_the_loop_from_seeing_the_others(tmp_path: Path) -> None:
    write(tmp_path, good())
    (site_dir(tmp_path, "a") / f"part-{900:020d}-{909:020d}.parquet").write_bytes(b"PAR1 and no more")
    tail = LogTail(tmp_path)
    assert (len(tail.read()), len(tail.read())) == (GOOD, 0)


def test_a_record_that_was_written_twice_counts_once(plant: Plant) -> None:
    write(plant.log, good())
    again = [replace(record(n), site="a", seq=n, cloud=call("a")) for n in range(6)]
    segment(plant.log, "a", to_batch(again), first=GOOD, end=b"")
    plant.skips({"written twice": 6})


@pytest.mark.parametrize("kind", ["missing", "a file", "empty", "other things", "a file for a site", "empty sites"])
def test_a_directory_that_is_no_log_is_a_round_without_records(plant: Plant, kind: str) -> None:
    if kind == "a file":
        plant.log.write_text("a log")
    elif kind != "missing":
        plant.log.mkdir()
    if kind == "other things":
        (plant.log / "photos").mkdir()
        (plant.log / "seg-1.arrow").write_text("in no site")
    if kind == "a file for a site":
        (plant.log / "site=a").write_text("a log")
    if kind == "empty sites":
        for site in ("a", "b"):
            site_dir(plant.log, site).mkdir()
    report = plant.round()
    assert report.reason == "0 labelled records, 20 are needed" and report.version is None


def test_a_site_without_records_does_not_keep_the_others_from_learning(plant: Plant) -> None:
    write(plant.log, good())
    site_dir(plant.log, "quiet").mkdir()
    plant.skips({})
    assert (latest := plant.store.latest()) and latest.meta["log"] == {"a": [0, GOOD - 1]}


def test_too_few_good_records_among_bad_ones_name_both_counts(plant: Plant) -> None:
    write(plant.log, [*good()[:9], *(record(n, cloud="<tool_call>") for n in range(300)), record(1, score=NAN)])
    report = plant.round()
    assert report.reason.startswith("9 labelled records, 20 are needed (skipped: 1 score must lie in [0, 1], got nan")
    assert "300 answer unparsable" in report.reason and plant.store.names() == [plant.first.version]


# ---- records


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"score": NAN}, "score must lie in [0, 1], got nan"),
        ({"score": INF}, "score must lie in [0, 1], got inf"),
        ({"propensity": NAN}, "propensity must lie in [0, 1], got nan"),
        ({"propensity": 1.5}, "propensity must lie in [0, 1], got 1.5"),
        ({"propensity": -0.5}, "propensity must lie in [0, 1], got -0.5"),
        ({"propensity": 0.0}, "label without propensity"),
        ({"link": replace(UNKNOWN, rtt_ms=NAN)}, "link.rtt_ms must lie in [0, 1e+09], got nan"),
        ({"prices": Prices(request_usd=-INF)}, "prices.request_usd must lie in"),
        ({"cost_usd": INF}, "cost_usd must lie in"),
        ({"queue_s": NAN}, "queue_s must lie in"),
        ({"time_us": 0}, "time_us must lie in [1, "),
        ({"time_us": time.time_ns() // 1000 + YEAR_US}, "time_us must lie in [1, "),
        ({"cloud": "x" * 10_000_000}, "answer too long"),
        ({"cloud": "<tool_call>" * 1_000_000}, "answer too long"),
        ({"cloud": HELP}, "answer asks for help"),
        ({"cloud": '<tool_call>{"name":"move","arguments":' + '{"a":' * 900 + "1" + "}" * 902}, "answer unparsable"),
        ({"messages": json.dumps([{"role": "user", "content": "x" * 10_000_000}])}, "question too long"),
        ({"messages": '{"role": "user", "content": "x"}'}, "question unreadable"),
        ({"messages": "[1, 2]"}, "question unreadable"),
        ({"messages": "[]"}, "question unreadable"),
        ({"messages": '[{"role": "user", "content": 5}]'}, "question unreadable"),
        ({"messages": '[{"role": "user", "content": "\\ud800"}]'}, "question unreadable"),
        ({"messages": "[" * 5000 + "]" * 5000}, "question unreadable"),
        ({"tools": TOOLS.replace('"object"', '"no such type"')}, "question unreadable"),
        ({"tools": TOOLS.replace('"enum"', '"$ref": "http://127.0.0.1:9/schema", "enum"')}, "question unreadable"),
        ({"tools": "5"}, "question unreadable"),
        ({"tool_choice": '{"type": "function"}'}, "question unreadable"),
    ],
)
def test_a_record_that_makes_no_sense_is_skipped_and_counted(
    plant: Plant, changes: dict[str, object], why: str
) -> None:
    write(plant.log, [*good(), record(1000, **changes)])
    report = plant.round()
    assert report.version, report.reason
    [(reason, count)] = report.poisoned.items()
    assert reason.startswith(why) and count == 1 and f"(skipped: 1 {why}" in report.reason


def test_text_that_is_not_utf8_and_fields_that_are_missing_are_counted(plant: Plant) -> None:
    write(plant.log, good())
    batch = to_batch([replace(record(n), site="b", seq=n) for n in range(4)])
    broken = pa.array([b"ok", b"\xff\xfe", b"\xc3", None], pa.binary()).buffers()
    place = SCHEMA.get_field_index("messages")
    columns = [*batch.columns]
    columns[place] = pa.Array.from_buffers(pa.string(), 4, broken)
    segment(plant.log, "b", pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    plant.skips({"messages is missing": 1, "messages is not UTF-8": 2, "question unreadable": 1})


def test_drafts_of_any_length_and_depth_do_no_harm(plant: Plant) -> None:
    drafts = [
        "x" * 10_000_000,
        "<tool_call>" * 1_000_000,
        '<tool_call>{"name":"a","arguments":' + "[" * 100_000,
        "\x00",
    ]
    write(plant.log, [*good(), *(record(1000 + n, draft=draft) for n, draft in enumerate(drafts))])
    report = plant.round()
    assert report.version and not report.poisoned, report.reason


# ---- jobs


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), MemoryError(), OSError(28, "No space left on device")]
)
def test_a_job_that_raises_anything_is_a_failed_round(plant: Plant, error: Exception) -> None:
    def failing(job: TrainingJob, name: str) -> TrainingOutcome:
        job.save()
        raise error

    write(plant.log, good())
    report = plant.round(failing)
    assert report.reason == f"failed: {type(error).__name__}: {error}"
    assert plant.store.names() == [plant.first.version]
    assert plant.round().version  # and the next one works


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond 100 kB: less than the weights of the tiny model."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_while_the_candidate_is_written_fails_the_round(plant: Plant) -> None:
    def train(job: TrainingJob, name: str) -> TrainingOutcome:
        with full_disk():
            return run_job(replace(job, config=replace(job.config, steps=1)))

    write(plant.log, good())
    report = plant.round(train)
    assert report.reason.startswith("failed: ") and "File too large" in report.reason
    assert plant.store.names() == [plant.first.version]


def test_a_disk_that_fills_up_while_it_is_published_leaves_no_half_version(plant: Plant) -> None:
    write(plant.log, good())
    compact(plant.log)
    learner = Learner(plant.log, plant.store, OPTIONS, plant.work, scripted(call("b")), lambda *_: filled())

    def filled() -> dict[str, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        return {}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        report = learner.round()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert report.reason.startswith("failed: ") and "cannot be published" in report.reason
    assert plant.store.names() == [plant.first.version]
    assert sorted(path.name for path in plant.store.root.glob("*edge*")) == [".number-edge", plant.first.version]


KILLED = """
    import sys, time
    from pathlib import Path
    from test_bad_learning_input import OPTIONS, REFIT, call, scripted
    from actors.model_store import ModelStore
    from orchestrator.learner import Learner

    root = Path(sys.argv[1])

    def train(job, name):
        scripted(call("b"))(job, name)
        print("training", flush=True)
        time.sleep(600)

    Learner(root / "log", ModelStore(root / "store"), OPTIONS, root / "work", train, REFIT).round()
"""


def test_a_learner_that_is_killed_leaves_what_is_live_and_the_next_round_works(plant: Plant, tmp_path: Path) -> None:
    write(plant.log, good())
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    paths = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}", "PATH": "/usr/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=paths) as process:
        assert process.stdout and process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGKILL)
    assert plant.work.exists() and plant.store.names() == [plant.first.version]
    shutil.copy(plant.log / "site=a" / "LOCK", plant.work / "left over")
    plant.skips({})
