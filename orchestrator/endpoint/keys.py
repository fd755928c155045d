"""API keys: made once, shown once, kept as hashes in a file that only its owner may read.

A key is ``ngk-ID-SECRET``; the ID finds its record, the secret's SHA-256 proves it (256 random bits need no slow hash).
Each record may be bound to sites and to limits. ``netgpt keys`` writes the file; a running site reads it again when it
changes (``KeyRing``), so a revoked key ends within a second. What limits mean is ``gatekeeper``'s.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from policies.errors import BadConfig

logger = logging.getLogger(__name__)

PREFIX = "ngk"
LOOK_S = 1.0  # between two looks at the file; how long a revoked key goes on at most
MOST_KEYS = 10_000


class KeyRecord(BaseModel):
    """What is known of a key; not the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: str
    sites: tuple[str, ...] = ()
    """Sites that take it; empty: all."""

    priority: Literal["interactive", "batch"] = "interactive"
    """Batch requests wait until no interactive one does."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Of prompts and answers."""

    usd_per_day: float | None = Field(default=None, ge=0)
    """What the cloud may cost; beyond it the edge answers."""


_RECORDS = TypeAdapter(list[KeyRecord])


def create(path: Path, name: str, **limits: object) -> tuple[str, KeyRecord]:
    """A new key in the file at ``path``: the key itself, which nobody can read again, and its record.

    Raises:
        BadConfig: a limit cannot be used, or the file cannot be read or written.
    """
    secret, key_id = secrets.token_urlsafe(32), secrets.token_hex(4)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        record = KeyRecord.model_validate(
            {"id": key_id, "name": name, "sha256": _hash(secret), "created": created, **limits}
        )
    except ValidationError as why:
        error = why.errors(include_url=False)[0]
        raise BadConfig(f"key {name!r}: {'.'.join(map(str, error['loc']))}: {error['msg']}") from None
    with _changing(path) as records:
        if len(records) >= MOST_KEYS:
            raise BadConfig(f"{path}: holds {MOST_KEYS} keys already. Fix: revoke some with netgpt keys revoke")
        records.append(record)
    return f"{PREFIX}-{key_id}-{secret}", record


def revoke(path: Path, key_id: str) -> KeyRecord:
    """Forget the key with this id.

    Raises:
        BadConfig: there is none, or the file cannot be read or written.
    """
    with _changing(path) as records:
        found = next((record for record in records if record.id == key_id), None)
        if found is None:
            raise BadConfig(f"{path}: holds no key {key_id!r}. Fix: see netgpt keys list")
        records.remove(found)
    return found


def read(path: Path) -> list[KeyRecord]:
    """The records, in the order they were made; none where there is no file.

    Raises:
        BadConfig: the file cannot be read.
    """
    try:
        return _RECORDS.validate_json(path.read_bytes(), strict=False)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as why:
        raise BadConfig(
            f"{path}: cannot be read as keys: {why}. Fix: restore it, or remove it and make new ones"
        ) from None


def listed(path: Path) -> Iterator[str]:
    """A line for each key.

    Raises:
        BadConfig: the file cannot be read.
    """
    records = read(path)
    if not records:
        yield f"no keys in {path}; make one with netgpt keys create NAME"
    for record in records:
        limits = {
            "requests/min": record.requests_per_minute,
            "tokens/min": record.tokens_per_minute,
            "USD/day": record.usd_per_day,
        }
        told = ", ".join(f"{value:g} {unit}" for unit, value in limits.items() if value is not None) or "no limits"
        sites = ", ".join(record.sites) or "all sites"
        yield f"{record.id}  {record.created}  {record.name}: {sites}; {record.priority}; {told}"


class KeyRing:
    """The keys in a file that may change.

    Args:
        clock: monotonic seconds.

    Raises:
        BadConfig: the file cannot be read now; later, the last keys that could be stay in force.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp, self._looked_s = self._now(), clock()
        self._records = {record.id: record for record in read(path)}

    @property
    def ids(self) -> Collection[str]:
        """Of the keys that are in force."""
        return self._records.keys()

    def find(self, key: str) -> KeyRecord | None:
        """The record of ``key``, None for one that was never made or was revoked."""
        self._look()
        prefix, _, rest = key.partition("-")
        key_id, _, secret = rest.partition("-")
        record = self._records.get(key_id) if prefix == PREFIX else None
        return record if record and hmac.compare_digest(record.sha256, _hash(secret)) else None

    def _look(self) -> None:
        if self._clock() - self._looked_s < LOOK_S:
            return
        self._looked_s = self._clock()
        if (stamp := self._now()) == self._stamp:
            return
        try:
            self._records = {record.id: record for record in read(self._path)}
            self._stamp = stamp
        except BadConfig as why:
            logger.error("%s; the keys read before stay in force", why)

    def _now(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@contextmanager
def _changing(path: Path) -> Iterator[list[KeyRecord]]:
    """The records, written back when the block ends well; one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = read(path)
            yield records
            _write(path, records)
    except OSError as why:
        raise BadConfig(f"{path}: cannot be written ({why.strerror}). Fix: make room, or change its owner") from None


def _write(path: Path, records: Sequence[KeyRecord]) -> None:
    aside = path.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump([record.model_dump(mode="json", exclude_none=True) for record in records], file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
