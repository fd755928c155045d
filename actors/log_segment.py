"""One file of the offload log: an Arrow IPC stream of small batches, each with a checksum.

``Segment`` writes; ``scan`` reads as far as the file is whole. A file is a schema message, batches, and, once it is
*sealed*, Arrow's end-of-stream mark: a sealed file never changes again. Every batch carries its CRC-32,
because after a power cut a file may have its length but not its content; what fails the check, and everything behind
it, is a torn tail. ``recover`` cuts that off and seals. Not here: queues and threads (``offload_log``), file names
(``log_files``).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from actors.log_record import SCHEMA

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # Arrow's end-of-stream mark
MARK, BLANK = b"crc32=", b"0" * 10  # the checksum covers its batch's metadata too, so it lies in a fixed place there


class Segment:
    """An append-only file; after an ``OSError`` it holds exactly the batches whose ``write`` returned.

    ``broken`` is set when even the clean-up failed: nothing may be written after that.

    Args:
        path: file to create (an empty left-over of the same name is replaced).
        sync: whether ``write`` returns only once the disk has the bytes (fsync).

    Raises:
        OSError: the file cannot be created or written.
    """

    def __init__(self, path: Path, sync: bool = True) -> None:
        self.path, self.size, self.records, self.broken, self._sync = path, 0, 0, False, sync
        self._fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            self._append(SCHEMA.serialize().to_pybytes())
            sync_directory(path.parent)
        except OSError:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        """Append ``batch``: all of it or, with an ``OSError``, nothing."""
        self._append(encode(batch))
        self.records += batch.num_rows

    def seal(self) -> None:
        """Mark the end and close; on a full disk the mark is left to ``recover``."""
        try:
            self._append(END)
        finally:
            os.close(self._fd)

    def abandon(self) -> None:
        """Close without the mark, as a killed process would."""
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            if self._sync:
                os.fsync(self._fd)
        except OSError:
            self._cut()
            raise
        self.size += len(data)

    def _cut(self) -> None:
        """Half a batch would hide every later one; a file that cannot be cut takes no more."""
        try:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
        except OSError:
            self.broken = True
            raise


@dataclass(frozen=True, slots=True)
class Scan:
    """What is whole in a file: its batches, their ``size`` and the ``torn`` tail in bytes, the end mark."""

    batches: tuple[pa.RecordBatch, ...]
    size: int
    torn: int
    sealed: bool


def encode(batch: pa.RecordBatch) -> bytes:
    """The IPC message of ``batch`` with its checksum, without the schema before it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch, custom_metadata={b"check": MARK + BLANK})
        end = sink.tell()
    start = batch.schema.serialize().size
    return _stamp(bytes(sink.getvalue().slice(start, end - start)))


def scan(path: Path) -> Scan:
    """Read ``path`` up to the first message that is not whole; never raises for damaged content.

    Raises:
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    batches, size = [], 0
    for batch, end in _messages(data):
        if batch is not None:
            batches.append(batch)
        size = end
    sealed = data[size : size + len(END)] == END
    return Scan(tuple(batches), size, 0 if sealed else len(data) - size, sealed)


def recover(path: Path) -> Scan:
    """Cut the torn tail off ``path`` and seal it; a file without one whole batch is removed. Returns what was found.

    Raises:
        OSError: the file cannot be read or written.
    """
    found = scan(path)
    if found.sealed:
        return found
    if not found.batches:
        path.unlink()
        return found
    with path.open("r+b") as file:
        file.truncate(found.size)
        file.seek(found.size)
        file.write(END)
        file.flush()
        os.fsync(file.fileno())
    return found


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _messages(data: bytes) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """Whole messages and the offset behind each; the schema comes first, as None."""
    source = pa.BufferReader(data)
    try:
        schema = pa.ipc.read_schema(source)
        yield None, source.tell()
        while source.tell() < len(data):
            start = source.tell()
            message = pa.ipc.read_message(source)
            raw = data[start : source.tell()]
            if MARK not in raw or _stamp(raw) != raw:
                return
            yield pa.ipc.read_record_batch(message, schema), source.tell()
    except (pa.ArrowException, EOFError, OSError, ValueError):
        return  # the end of what can be read; the caller knows the offset


def _stamp(raw: bytes) -> bytes:
    """``raw`` with the CRC-32 of itself in the place marked for it (which counts as zeros)."""
    at = raw.index(MARK) + len(MARK)
    blank = raw[:at] + BLANK + raw[at + len(BLANK) :]
    return blank[:at] + b"%010d" % zlib.crc32(blank) + blank[at + len(BLANK) :]
