"""The offload log: durability under kill -9, torn tails, full disks, compaction, reading."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import log_files
from actors.log_files import log_files as files_of
from actors.log_files import retire, site_dir
from actors.log_record import SCHEMA, OffloadRecord, from_table, to_batch
from actors.log_segment import END, Segment, encode, recover, scan
from actors.offload_log import OffloadLog, compact, open_dataset, read_log
from policies.errors import LogError
from policies.types import LinkState, Prices

RECORD = OffloadRecord(
    time_us=1,
    request_id="r",
    request_hash="h",
    messages='[{"role":"user","content":"move slice 7"}]',
    draft="<tool_call>{}</tool_call>",
    draft_logprobs=(-0.5, -1.25),
    prices=Prices(request_usd=0.5),
    link=LinkState(20.0, 1e6, 2e6),
)


def write(root: Path, count: int, site: str = "a", **options: int) -> None:
    log = OffloadLog(root, site, **options)  # type: ignore[arg-type]
    for index in range(count):
        log.append(replace(RECORD, request_id=str(index)))
        if "segment_records" in options:
            assert log.flush()
    log.close()


def seqs(root: Path) -> list[int]:
    return list(read_log(root)["seq"].to_pylist())


def test_a_record_comes_back_as_it_was_appended(tmp_path: Path) -> None:
    record = replace(RECORD, cloud="yes", draft_error=None, degraded=True)
    log = OffloadLog(tmp_path, "a")
    assert log.append(record) == 0
    log.close()
    (back,) = from_table(read_log(tmp_path))
    assert replace(back, draft_logprobs=tuple(back.draft_logprobs)) == replace(record, site="a", seq=0)


def test_an_empty_log_reads_as_an_empty_table(tmp_path: Path) -> None:
    assert read_log(tmp_path).schema == SCHEMA
    assert read_log(tmp_path / "missing").num_rows == 0
    assert open_dataset(tmp_path).count_rows() == 0


async def test_a_waiter_learns_that_its_record_is_on_disk(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a")
    seq = log.append(RECORD)
    assert seq is not None and await log.wait_durable(seq)
    assert seqs(tmp_path) == [0]  # readable while the segment is still open
    assert not await log.wait_durable(seq + 1, timeout_s=0.01)
    await asyncio.to_thread(log.close)


def test_appending_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a")
    started = time.perf_counter()
    for _ in range(500):
        log.append(RECORD)
    assert (time.perf_counter() - started) / 500 < 1e-3
    log.close()
    assert seqs(tmp_path) == list(range(500))


def test_numbering_goes_on_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 2)
    assert seqs(tmp_path) == [0, 1, 2, 3, 4]
    compact(tmp_path)
    write(tmp_path, 1)
    assert seqs(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_two_writers_of_one_site_are_refused(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a")
    with pytest.raises(LogError, match="another process"):
        OffloadLog(tmp_path, "a")
    log.close()
    log.close()


WRITER = textwrap.dedent(
    """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from actors.offload_log import OffloadLog
    from actors.log_record import OffloadRecord
    log = OffloadLog(Path(sys.argv[1]), "a", segment_records=40, linger_ms=0.5)
    record = OffloadRecord(time_us=1, request_id="r", request_hash="h", messages="[]" * 500)
    while True:
        seq = log.append(record)
        if seq is not None and seq % 7 == 0 and log.flush():
            print(seq, flush=True)
    """
)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout.read().splitlines() if line]
        writer.wait()
        writer.stdout.close()
        found = seqs(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) > acknowledged[-1]
        compact(tmp_path)
        assert seqs(tmp_path) == found
    write(tmp_path, 1)
    assert seqs(tmp_path) == list(range(len(found) + 1))


def test_a_tail_torn_at_any_byte_is_cut_and_never_misread(tmp_path: Path) -> None:
    whole = [SCHEMA.serialize().to_pybytes(), *(encode(to_batch([replace(RECORD, seq=n)])) for n in range(2))]
    data = b"".join(whole)
    edges = [len(whole[0]), len(whole[0]) + len(whole[1]), len(data)]
    path = tmp_path / "seg"
    for length in [*range(0, edges[1], 61), *range(edges[1] - 1, len(data) + 1)]:
        path.write_bytes(data[:length])
        found = scan(path)
        batches = sum(length >= edge for edge in edges[1:])
        assert [batch["seq"][0].as_py() for batch in found.batches] == list(range(batches))
        assert found.size == max([0, *(edge for edge in edges if edge <= length)])
        assert found.torn == length - found.size and not found.sealed


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=64))
def test_bytes_that_changed_on_disk_are_never_read_as_records(
    position: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = (encode(to_batch([replace(RECORD, seq=n)])) for n in (0, 1))
    head = SCHEMA.serialize().to_pybytes() + first
    at = int(position * (len(second) - len(junk)))
    path = tmp_path_factory.mktemp("junk") / "seg"
    path.write_bytes(head + second[:at] + junk + second[at + len(junk) :])
    read = [row for batch in scan(path).batches for row in batch.to_pylist()]
    intact = to_batch([RECORD]).to_pylist()[0]
    assert all({**row, "seq": -1} == intact for row in read) and len(read) in (1, 2)


def test_zeros_behind_the_last_batch_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "seg"
    path.write_bytes(SCHEMA.serialize().to_pybytes() + encode(to_batch([RECORD])) + bytes(4096))
    assert recover(path).torn == 4096
    assert scan(path).sealed and len(scan(path).batches) == 1
    with pa.ipc.open_stream(path) as stream:
        assert stream.read_all().num_rows == 1


def test_a_restart_cuts_the_torn_tail_and_says_how_much(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (segment,) = files_of(site_dir(tmp_path, "a"))
    whole = segment.path.read_bytes().removesuffix(END)
    segment.path.write_bytes(whole + encode(to_batch([RECORD]))[:-9])
    log = OffloadLog(tmp_path, "a")
    assert log.gauges()["log_cut_bytes"] > 0
    assert log.append(RECORD) == 2
    log.close()
    assert seqs(tmp_path) == [0, 1, 2]


def test_a_segment_without_one_record_is_removed_on_restart(tmp_path: Path) -> None:
    directory = site_dir(tmp_path, "a")
    directory.mkdir()
    Segment(directory / f"seg-{7:020d}.arrow").abandon()
    write(tmp_path, 1)
    assert seqs(tmp_path) == [7]


def test_a_record_arrow_refuses_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a", linger_ms=50)
    for bad in (RECORD, replace(RECORD, messages="\ud800"), replace(RECORD, prompt_tokens="x"), RECORD):  # type: ignore[arg-type]
        log.append(bad)
    log.close()
    assert seqs(tmp_path) == [0, 3]
    assert log.gauges()["log_unwritable"] == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, or a skip where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_until_shed(log: OffloadLog) -> int:
    """Append until the log sheds because the disk takes no more; returns how many it took."""
    taken, deadline = 0, time.monotonic() + 30
    while log.append(replace(RECORD, messages="m" * 2000)) is not None:
        taken += 1
        while not log.flush(timeout_s=0.02) and not log.gauges()["log_write_errors"]:
            assert time.monotonic() < deadline
    return taken


def test_a_full_disk_sheds_and_counts_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(128 << 10))
    log = OffloadLog(small_disk, "a", queue_records=8, linger_ms=0)
    taken = fill_until_shed(log)
    gauges = log.gauges()
    assert gauges["log_shed"] == 1 and gauges["log_write_errors"] >= 1 and gauges["log_queue"] == 8
    filler.unlink()
    assert log.flush()
    log.close()
    assert seqs(small_disk) == list(range(taken))


def test_a_file_size_limit_leaves_only_whole_records(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = OffloadLog(tmp_path, "a", queue_records=4, linger_ms=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        taken = fill_until_shed(log)
        assert seqs(tmp_path) == list(range(taken - 4))
        log.close(timeout_s=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.gauges()["log_shed"] == 5
    write(tmp_path, 1)
    assert seqs(tmp_path) == list(range(taken - 3))


def test_segments_and_parts_together_hold_each_record_once(tmp_path: Path) -> None:
    for site in ("a", "b"):
        write(tmp_path, 7, site, segment_records=3)
    assert len(compact(tmp_path)) == 2
    write(tmp_path, 4, segment_records=3)
    log = OffloadLog(tmp_path, "b")
    log.append(RECORD)
    log.flush()
    assert {path.suffix for path in site_dir(tmp_path, "a").iterdir()} == {".arrow", ".parquet", ".lock", ""}
    table = read_log(tmp_path)
    assert table["site"].to_pylist() == ["a"] * 11 + ["b"] * 8
    assert table["seq"].to_pylist() == [*range(11), *range(8)]
    assert open_dataset(tmp_path).to_table().num_rows == 19
    assert open_dataset(tmp_path).count_rows(filter=ds.field("site") == "b") == 8
    log.close()


def test_parquet_parts_are_read_by_pyarrow_dataset_alone(tmp_path: Path) -> None:
    write(tmp_path, 5)
    compact(tmp_path)
    dataset = ds.dataset(str(tmp_path), format="parquet", exclude_invalid_files=True)
    assert sorted(dataset.to_table()["seq"].to_pylist()) == list(range(5))


def test_a_crash_between_compaction_and_clean_up_duplicates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 6, segment_records=2)
    with monkeypatch.context() as patched:
        patched.setattr(log_files, "_remove_covered", lambda directory: None)
        compact(tmp_path)
    assert len(list(site_dir(tmp_path, "a").glob("seg-*"))) == 3
    assert seqs(tmp_path) == list(range(6))
    assert compact(tmp_path) == []
    assert not list(site_dir(tmp_path, "a").glob("seg-*"))
    assert seqs(tmp_path) == list(range(6))


def test_the_open_segment_is_never_compacted(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a")
    log.append(RECORD)
    log.flush()
    assert compact(tmp_path) == []
    log.append(RECORD)
    log.close()
    assert len(compact(tmp_path)) == 1
    assert seqs(tmp_path) == [0, 1]


def test_retention_deletes_the_oldest_files_first(tmp_path: Path) -> None:
    write(tmp_path, 12, segment_records=3)
    directory = site_dir(tmp_path, "a")
    sizes = [os.path.getsize(file.path) for file in files_of(directory)]
    assert retire(directory, keep_bytes=sum(sizes[2:])) == sum(sizes[:2])
    assert seqs(tmp_path) == list(range(6, 12))
    write(tmp_path, 3, segment_records=3, keep_bytes=1)
    assert seqs(tmp_path) == [12, 13, 14]


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="file"):
        OffloadLog(tmp_path / "file", "a")
