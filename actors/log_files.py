"""The files of the offload log: where they lie, compaction to Parquet, reading, retention.

``<root>/site=<site>/`` holds ``seg-<first seq>.arrow`` (``log_segment``) and ``part-<first>-<last>.parquet``.
``compact`` turns sealed segments into a part: written aside, renamed, then the segments are removed. A crash between
the two leaves both; a part's name says which segments it covers, so readers never see a record twice. ``read_log``
and ``open_dataset`` may run while a site appends. Not here: writing records (``offload_log``).
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from actors.log_record import SCHEMA
from actors.log_segment import END, scan, sync_directory
from policies.errors import LogError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?:seg-(\d{20})\.arrow|part-(\d{20})-(\d{20})\.parquet)")
OTHER_VERSION = "%s: left out, it was written by another version of this program"
NUMBER = b"netgpt.log"  # the schema's, in its metadata: columns may keep their names and change their meaning
READ_ATTEMPTS = 5  # a compaction or retention that runs meanwhile moves files; more than a few in a row is a fault


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file and the sequence numbers its name promises; ``last`` is None for a segment."""

    path: Path
    first: int
    last: int | None

    @property
    def is_part(self) -> bool:
        """Whether it is compacted (Parquet)."""
        return self.last is not None


def site_dir(root: Path, site: str) -> Path:
    """Directory of one site's files."""
    return root / f"site={site}"


def segment_path(directory: Path, first: int) -> Path:
    """Name of the segment whose first record is ``first``."""
    return directory / f"seg-{first:020d}.arrow"


def log_files(directory: Path) -> list[LogFile]:
    """Files of one site by first sequence number, without segments a part already covers."""
    segments = _matching(
        directory, "seg-*.arrow"
    )  # first: whatever a compaction removes meanwhile is in a part by then
    parts = _matching(directory, "part-*.parquet")
    left = [s for s in segments if not any(p.first <= s.first <= (p.last or 0) for p in parts)]
    return sorted(parts + left, key=lambda file: file.first)


def read_log(
    root: Path,
    after: Mapping[str, int] | None = None,
    skipped: Counter[str] | None = None,
    columns: Sequence[str] = SCHEMA.names,
) -> pa.Table:
    """Every whole record of every site, in ``SCHEMA``, by site and sequence number, each once.

    Args:
        after: of these sites only what may hold records beyond that sequence number is read; some before come too.
        skipped: where to count what is left out, by reason; given, a file that cannot be read is left out as well.
        columns: that are kept, ``site`` and ``seq`` among them; the long ones are most of a log.

    Raises:
        LogError: a file cannot be read.
    """
    for _ in range(READ_ATTEMPTS):
        found: Counter[str] = Counter()
        load = partial(_load if skipped is None else _load_or_skip, skipped=found)
        try:
            tables = (load(file).select(columns) for file in _files(root, after or {}))
            table = pa.concat_tables([SCHEMA.empty_table().select(columns), *tables])
        except FileNotFoundError:
            continue
        except (OSError, pa.ArrowException) as why:
            raise LogError(f"{root}: the offload log cannot be read: {why}") from why
        distinct = _distinct(table)
        if skipped is not None:
            skipped.update(found | Counter({"written twice": len(table) - len(distinct)}))
        return distinct
    raise LogError(f"{root}: files of the offload log vanish while they are read")


def open_dataset(root: Path) -> ds.Dataset:
    """The log for ``pyarrow.dataset``: compacted parts are scanned lazily, segments are in memory."""
    files = [file for directory in _sites(root) for file in log_files(directory)]
    parts = ds.dataset([str(f.path) for f in files if f.is_part], schema=SCHEMA, format="parquet")
    fresh = [SCHEMA.empty_table(), *(_load(f, Counter()) for f in files if not f.is_part)]
    return ds.dataset([parts, ds.InMemoryDataset(pa.concat_tables(fresh))])


def compact(root: Path) -> list[Path]:
    """Move the sealed segments of every site into one Parquet part each; returns the new parts.

    A site that is being compacted elsewhere is left out.

    Raises:
        LogError: a part cannot be written; the segments are then still there.
    """
    made = []
    for directory in _sites(root):
        with lock(directory / "compact.lock") as held:
            if held:
                made += _compact_site(directory)
    return made


def retire(directory: Path, keep_bytes: int) -> int:
    """Delete the oldest files beyond ``keep_bytes`` (the newest always stays); returns the bytes freed."""
    sizes = {file.path: file.path.stat().st_size for file in log_files(directory)}
    surplus, freed = sum(sizes.values()) - keep_bytes, 0
    for path in list(sizes)[:-1]:
        if freed >= surplus:
            break
        path.unlink(missing_ok=True)
        freed += sizes[path]
    return freed


def looks_sealed(path: Path) -> bool:
    """Whether the last bytes are the end mark (cheap; ``scan`` is certain)."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(END)))
        return file.read() == END


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold an advisory lock on ``path`` while the block runs; yields False when another process has it."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield try_lock(fd)
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the lock on an open file without waiting; it lasts until the file is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _compact_site(directory: Path) -> list[Path]:
    made = []
    try:
        sealed = _sealed(directory)
        if sealed:
            made.append(_write_part(directory, pa.concat_tables([_load(file, Counter()) for file in sealed])))
        _remove_covered(directory)
    except (OSError, pa.ArrowException) as why:
        raise LogError(f"{directory}: compaction failed: {why}") from why
    return made


def _sealed(directory: Path) -> list[LogFile]:
    """The first unbroken run of sealed segments: a part's range must hide nothing unsealed, and nothing it has not."""
    run: list[LogFile] = []
    for file in log_files(directory):
        if file.is_part:
            continue
        found = scan(file.path)
        if not found.sealed:
            break
        if found.batches and _ours(found.batches[0].schema):
            run.append(file)
        elif run:
            break
    return run


def _write_part(directory: Path, table: pa.Table) -> Path:
    seq = table["seq"]
    path = directory / f"part-{pc.min(seq).as_py():020d}-{pc.max(seq).as_py():020d}.parquet"
    aside = path.with_suffix(".tmp")
    pq.write_table(_distinct(table), aside, compression="zstd")
    fd = os.open(aside, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.rename(path)
    sync_directory(directory)
    return path


def _remove_covered(directory: Path) -> None:
    kept = {file.path for file in log_files(directory)}
    for file in _matching(directory, "seg-*.arrow"):
        if file.path not in kept:
            file.path.unlink(missing_ok=True)
    for left_over in directory.glob("part-*.tmp"):
        left_over.unlink(missing_ok=True)


def _sites(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("site=*") if path.is_dir())


def _matching(directory: Path, pattern: str) -> list[LogFile]:
    found = []
    for path in directory.glob(pattern):
        if match := _NAME.fullmatch(path.name):
            segment, first, last = match.groups()
            found.append(LogFile(path, int(segment or first), int(last) if last else None))
    return sorted(found, key=lambda file: file.first)


def _files(root: Path, after: Mapping[str, int]) -> list[LogFile]:
    return [
        file
        for directory in _sites(root)
        for file in _beyond(log_files(directory), after.get(directory.name.removeprefix("site="), -1))
    ]


def _beyond(files: list[LogFile], seq: int) -> list[LogFile]:
    """Without the files whose successor already begins at or before the record after ``seq``."""
    known = sum(following.first <= seq + 1 for following in files[1:])
    return files[known:]


def _load_or_skip(file: LogFile, skipped: Counter[str]) -> pa.Table:
    try:
        return _load(file, skipped)
    except FileNotFoundError:
        raise  # it was compacted meanwhile
    except (OSError, pa.ArrowException, LogError) as why:
        logger.warning("%s: left out: %s", file.path, why)
        skipped["unreadable file"] += 1
        return SCHEMA.empty_table()


def _load(file: LogFile, skipped: Counter[str]) -> pa.Table:
    """The records of ``file``; what it lacks is counted in ``skipped``."""
    if file.is_part:
        try:
            return _load_part(file.path, skipped)
        except pa.ArrowException as why:
            raise LogError(f"{file.path}: cannot be read: {why} Fix: restore it from a copy, or move it away") from why
    found = scan(file.path)
    if found.torn:
        logger.warning("%s: its last %d bytes are no whole records and are left out", file.path, found.torn)
        skipped["torn end of a file"] += 1
    if found.batches and not _ours(found.batches[0].schema):
        return _other_version(file.path, sum(batch.num_rows for batch in found.batches), skipped)
    return pa.Table.from_batches(found.batches, schema=SCHEMA)


def _load_part(path: Path, skipped: Counter[str]) -> pa.Table:
    if not _ours(pq.read_schema(path)):  # what it lacks would be read as null: no error, no label
        return _other_version(path, pq.read_metadata(path).num_rows, skipped)
    return pq.read_table(path, schema=SCHEMA, partitioning=None)


def _other_version(path: Path, records: int, skipped: Counter[str]) -> pa.Table:
    logger.warning(OTHER_VERSION, path)
    skipped["of another version of the log"] += records
    return SCHEMA.empty_table()


def _ours(schema: pa.Schema) -> bool:
    return bool(schema.equals(SCHEMA)) and (schema.metadata or {}).get(NUMBER) == SCHEMA.metadata[NUMBER]


def _distinct(table: pa.Table) -> pa.Table:
    """By site and sequence number, each pair once: a batch written again after a failed sync is there twice."""
    order = pc.sort_indices(table, [("site", "ascending"), ("seq", "ascending")])
    table = table.take(order)
    seq, site = table["seq"].to_numpy(), table["site"].combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.zeros(len(seq), dtype=bool)
    repeated[1:] = (seq[1:] == seq[:-1]) & (site[1:] == site[:-1])
    return table.filter(pa.array(~repeated)) if repeated.any() else table
