"""What clients say about answers they got: one line of JSON a verdict, beside the offload log of the site.

A verdict is on disk before it is acknowledged. Two files of ``FILE_BYTES`` at most are kept, the older verdicts go; a
torn last line is what a kill left, and is passed over. Joined to records by request id (``orchestrator.lessons``).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.log_files import site_dir
from policies.errors import LogError

NAME, OLDER = "feedback.jsonl", "feedback.1.jsonl"
FILE_BYTES = 16 << 20  # some hundred thousand verdicts


@dataclass(frozen=True, slots=True)
class Verdict:
    """One client's word on the answer to ``request_id``.

    ``right`` says whether it was right; ``answer``, in the tool-call syntax, what it should have been, None where the
    client does not say. ``time_us`` is Unix time.
    """

    request_id: str
    time_us: int
    right: bool
    answer: str | None = None


class FeedbackLog:
    """Appends the verdicts of one site; calls block for a sync of the disk, from any thread."""

    def __init__(self, directory: Path, site: str, file_bytes: int = FILE_BYTES) -> None:
        self._directory, self._file_bytes = site_dir(directory, site), file_bytes
        self._lock = threading.Lock()

    def append(self, verdict: Verdict) -> None:
        """Write ``verdict``.

        Raises:
            LogError: the disk does not take it; names the file.
        """
        line = (json.dumps(asdict(verdict)) + "\n").encode()
        path = self._directory / NAME
        try:
            with self._lock:
                self._directory.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size + len(line) > self._file_bytes:
                    path.replace(self._directory / OLDER)
                _append(path, line)
        except OSError as why:
            raise LogError(f"{path}: the feedback cannot be written: {why.strerror}") from why


def read_feedback(root: Path) -> Mapping[str, Verdict]:
    """The last verdict on each request, of all sites under ``root``; lines that make no sense are passed over."""
    files = [path for name in (OLDER, NAME) for path in sorted(root.glob(f"site=*/{name}"))]
    return {verdict.request_id: verdict for path in files for verdict in _verdicts(path)}


def _append(path: Path, line: bytes) -> None:
    """A whole line or nothing: what a full disk took of it is cut off again."""
    with path.open("ab") as file:
        before = file.tell()
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise


def _verdicts(path: Path) -> Iterator[Verdict]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:  # it was moved aside just now
        return
    for line in lines:
        try:
            verdict = Verdict(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if isinstance(verdict.request_id, str) and isinstance(verdict.right, bool):
            yield verdict
