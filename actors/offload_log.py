"""The offload log of one site: append-only, bounded, alive through kill -9 and full disks.

``append`` only queues; one writer thread takes what has gathered in a few milliseconds, writes it as one Arrow batch
and syncs it. Durability: a record is *acknowledged* once ``wait_durable(seq)`` or ``flush()`` returns True, on a
healthy disk ``linger_ms`` and one sync after ``append``; what is acknowledged survives kill -9 and, with ``sync``, a
power cut. Shedding: while the disk fails, the batch is retried and the queue fills; records that find it full are
dropped (the newest, so the order has no hole) and counted. Requests never wait for the log. Reading and compaction:
``read_log``, ``compact`` (``log_files``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from itertools import islice
from pathlib import Path

import pyarrow as pa

from actors.log_files import (
    compact,
    log_files,
    looks_sealed,
    open_dataset,
    read_log,
    retire,
    segment_path,
    site_dir,
    try_lock,
)
from actors.log_record import SCHEMA, OffloadRecord, from_table, to_batch
from actors.log_segment import Segment, recover
from policies.errors import LogError

__all__ = ["SCHEMA", "OffloadLog", "OffloadRecord", "compact", "from_table", "open_dataset", "read_log"]
logger = logging.getLogger(__name__)

BATCH_RECORDS = 256  # one batch at most; more only adds latency, the fixed part of a batch is then below 1 %
RETRY_S = 0.2  # between two tries on a failing disk: soon enough to notice room, too seldom to load anything


class OffloadLog:
    """Appends the records of ``site`` under ``directory``; one per site at a time (locked).

    Args:
        directory: root of the log, shared by all sites.
        site: a path-safe name.
        segment_records, segment_bytes: a segment is sealed beyond either.
        queue_records, queue_bytes: what may wait for the disk; beyond it new records are shed.
        linger_ms: how long the writer lets records gather into one batch: a batch costs as much as ten records.
        keep_bytes: retention; the oldest files beyond it are deleted when a segment is sealed.
        sync: fsync every batch. Without it a record survives kill -9 but not a power cut.

    Raises:
        LogError: the directory cannot be used, or another process writes this site's log.
    """

    def __init__(
        self,
        directory: Path,
        site: str,
        *,
        segment_records: int = 512,
        segment_bytes: int = 4 << 20,
        queue_records: int = 4096,
        queue_bytes: int = 64 << 20,
        linger_ms: float = 20.0,
        keep_bytes: int = 1 << 30,
        sync: bool = True,
    ) -> None:
        self._dir, self._site, self._sync = site_dir(directory, site), site, sync
        self._segment_limit = (segment_records, segment_bytes)
        self._queue_limit = (queue_records, queue_bytes)
        self._linger_s, self._keep_bytes = linger_ms / 1e3, keep_bytes
        self._queue: deque[OffloadRecord] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._next, self._durable = 0, -1
        self._accepting, self._closing = True, False
        self._segment: Segment | None = None
        self._counts = dict.fromkeys(("shed", "unwritable", "write_errors", "retired_bytes", "cut_bytes"), 0)
        self._lock_fd = self._open()
        self._writer = threading.Thread(target=self._run, name=f"offload-log-{site}", daemon=True)
        self._writer.start()

    def append(self, record: OffloadRecord) -> int | None:
        """Queue ``record`` and return its sequence number, or None when it was shed. Never blocks on the disk."""
        chars = record.chars
        with self._changed:
            full = len(self._queue) >= self._queue_limit[0] or self._queued_bytes + chars > self._queue_limit[1]
            if full or not self._accepting:
                self._counts["shed"] += 1
                return None
            seq, self._next = self._next, self._next + 1
            self._queue.append(record)
            self._queued_bytes += chars
            if len(self._queue) in (1, BATCH_RECORDS):  # the writer waits for one of these, and wakes up dearly
                self._changed.notify_all()
            return seq

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything appended so far is durable; False when it is not in time."""
        return self._wait(self._next - 1, timeout_s)

    async def wait_durable(self, seq: int, timeout_s: float = 10.0) -> bool:
        """Wait until record ``seq`` is durable without blocking the event loop; False when it is not in time."""
        return await asyncio.to_thread(self._wait, seq, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued, seal, stop; what the disk does not take in ``timeout_s`` is shed and counted."""
        if not self._writer.is_alive():
            return
        with self._changed:
            self._accepting = False
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join()
        os.close(self._lock_fd)

    def gauges(self) -> dict[str, float]:
        """Counters and levels: last numbers given out and durable, records waiting, shed, retried, deleted."""
        with self._changed:
            levels = {"seq": self._next - 1, "durable_seq": self._durable, "queue": len(self._queue)}
            return {f"log_{name}": float(value) for name, value in {**levels, **self._counts}.items()}

    def _open(self) -> int:
        """Lock the directory, cut torn tails, find the next sequence number."""
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._dir / "LOCK", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if not try_lock(fd):
                os.close(fd)
                raise LogError(f"{self._dir}: another process writes this site's log")
            self._next = self._recover()
            self._durable = self._next - 1
        except OSError as why:
            raise LogError(f"{self._dir}: the offload log cannot be opened: {why}") from why
        return fd

    def _recover(self) -> int:
        following, files = 0, log_files(self._dir)
        for file in files:
            following = max(following, file.first, (file.last or 0) + 1 if file.is_part else 0)
            if file.is_part or (file is not files[-1] and looks_sealed(file.path)):
                continue
            found = recover(file.path)
            self._counts["cut_bytes"] += found.torn
            if found.batches:
                following = max(following, int(found.batches[-1]["seq"][-1].as_py()) + 1)
        return following

    def _wait(self, seq: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._durable >= seq, timeout_s)

    def _run(self) -> None:
        """The writer thread: gather, write, acknowledge."""
        while records := self._gather():
            try:
                self._write(records)
            except OSError as why:
                self._failed(why)
            else:
                self._acknowledge(len(records))
        self._seal()

    def _gather(self) -> list[OffloadRecord]:
        """The oldest waiting records, left in the queue until they are durable; empty once closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._closing:
                self._changed.wait_for(lambda: len(self._queue) >= BATCH_RECORDS or self._closing, self._linger_s)
                return list(islice(self._queue, BATCH_RECORDS))
            self._counts["shed"] += len(self._queue)
            return []

    def _write(self, records: list[OffloadRecord]) -> None:
        batch = self._encodable(records, self._durable + 1)
        if batch is None:
            return
        if self._segment is None:
            self._segment = Segment(segment_path(self._dir, batch["seq"][0].as_py()), self._sync)
        self._segment.write(batch)
        if self._segment.records >= self._segment_limit[0] or self._segment.size >= self._segment_limit[1]:
            self._seal()
            self._counts["retired_bytes"] += retire(self._dir, self._keep_bytes)

    def _encodable(self, records: list[OffloadRecord], first: int) -> pa.RecordBatch | None:
        """One batch; a record that Arrow refuses must not take its neighbours with it."""
        try:
            return to_batch(records, self._site, first)
        except (pa.ArrowException, UnicodeError, TypeError, ValueError) as why:
            if len(records) > 1:
                alone = (self._encodable([record], first + at) for at, record in enumerate(records))
                parts = [batch for batch in alone if batch]
                return pa.concat_batches(parts) if parts else None
            self._counts["unwritable"] += 1
            logger.warning("record %s of request %s cannot be logged: %s", first, records[0].request_id, why)
            return None

    def _acknowledge(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._queued_bytes -= self._queue.popleft().chars
            self._durable += count
            self._changed.notify_all()

    def _failed(self, why: OSError) -> None:
        if self._segment is not None and self._segment.broken:
            self._segment.abandon()
            self._segment = None
        with self._changed:
            self._counts["write_errors"] += 1
            if self._counts["write_errors"] == 1:
                logger.error("%s: the offload log cannot be written, will be retried: %s", self._dir, why)
            self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _seal(self) -> None:
        if self._segment is None:
            return
        segment, self._segment = self._segment, None
        try:
            segment.seal()
        except OSError as why:
            logger.warning("%s: left without its end mark until the next start: %s", segment.path, why)
