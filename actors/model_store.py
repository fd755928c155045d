"""The model store: numbered, immutable versions of weights, each a directory that is there whole or not at all.

``<root>/<version>/`` is a Hugging Face directory plus ``calibrator.json`` and ``MANIFEST.json``, which holds the
SHA-256 of every other file. ``publish`` copies aside, syncs, and renames last, so a reader never sees half a version
and a kill leaves nothing visible. A version's checksum is that of its manifest's file list: one string vouches for
weights, tokenizer and calibrator together. A version may be an adapter (``actors.adapter_base``): it names the version
that is its base, whose checksum its own covers. ``<root>/RELEASE.json`` says which versions run; those are never
deleted, nor is the base of any adapter that is kept.
Not here: who decides that, and how a version is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.adapter_base import base_of, write_base
from policies.errors import StoreError
from policies.release import Release, from_dict

MANIFEST = "MANIFEST.json"
RELEASE = "RELEASE.json"
_VERSION = re.compile(r"([a-z][a-z0-9]*)-(\d{4,})-([0-9a-f]{8})")
_ASIDE = ".aside-"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One published version; ``sha256`` covers every file in ``path``, ``files`` each (names relative to it).

    ``published`` is Unix time in seconds; ``base`` is the version of which it is an adapter.
    """

    version: str
    path: Path
    sha256: str
    number: int
    kind: str
    parent: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    published: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None

    @property
    def site(self) -> str | None:
        """The only site it is for; None for all."""
        site = self.meta.get("site")
        return site if isinstance(site, str) else None


class ModelStore:
    """Versions under ``root``; several processes may publish and read at once.

    Args:
        root: directory, created on the first publish.
        keep: versions kept of each kind, and of each site's own; older ones are deleted when a new one is published,
            except its parent, what runs or may be gone back to, and the bases of what is kept.
    """

    def __init__(self, root: Path, keep: int = 8) -> None:
        assert keep >= 1, keep
        self.root, self._keep = root, keep

    def publish(
        self, src_dir: Path, kind: str = "edge", parent: str | None = None, meta: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        """Copy ``src_dir`` into the store as the next number of its kind.

        Args:
            meta: what should be remembered about how it was made; JSON values.

        Raises:
            StoreError: the source cannot be read, or it is an adapter of a model that is not a whole version of this
                store, or the store cannot be written; nothing is visible then.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._locked():
                return self._publish(src_dir, kind, parent, meta or {})
        except (OSError, shutil.Error) as why:
            raise StoreError(f"{src_dir}: cannot be published to {self.root}: {why}") from why

    def get(self, version: str) -> ModelVersion:
        """The version of that name, every file checked against its checksum.

        Raises:
            StoreError: there is none, or a file is missing, added or changed.
        """
        found = self.read(version)
        verify(found.path, found.sha256)
        return found

    def read(self, version: str) -> ModelVersion:
        """The version of that name, checksums unchecked.

        Raises:
            StoreError: there is none, or its manifest cannot be read.
        """
        match = _VERSION.fullmatch(version)
        if not match:
            raise StoreError(f"{version!r} is not the name of a model version")
        path = self.root / version
        try:
            data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            known = data["sha256"], int(match[2]), match[1], data["parent"], dict(data["meta"])
            published, files = float(data.get("published", 0.0)), dict(data["files"])
            return ModelVersion(version, path, *known, published, files, data.get("base"))
        except FileNotFoundError:
            raise StoreError(f"{self.root} holds no model version {version}") from None
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise StoreError(f"{path / MANIFEST}: cannot be read: {why!r}") from why

    def latest(self, kind: str = "edge") -> ModelVersion | None:
        """The version with the highest number (checksums unchecked), or None."""
        versions = self.list(kind)
        return versions[-1] if versions else None

    def list(self, kind: str = "edge") -> list[ModelVersion]:
        """All versions of ``kind`` by number (checksums unchecked)."""
        return [self.read(name) for name in self.names(kind)]

    def names(self, kind: str = "edge") -> Sequence[str]:
        """Names of all versions of ``kind`` by number."""
        found = (_VERSION.fullmatch(path.name) for path in self.root.glob(f"{kind}-*") if (path / MANIFEST).is_file())
        return [match[0] for match in sorted(filter(None, found), key=lambda match: int(match[2]))]

    @property
    def release(self) -> Release | None:
        """Which versions run, or ran last; None before anything did.

        Raises:
            StoreError: the record is damaged.
        """
        path = self.root / RELEASE
        try:
            return from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as why:
            fix = "Fix: remove it; the newest version then starts as if nothing had run"
            raise StoreError(f"{path}: cannot be read: {why}. {fix}") from None

    def record(self, release: Release) -> None:
        """Replace what ``release`` returns, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.root / RELEASE
        try:
            with self._locked():
                aside = path.with_suffix(".new")
                _write(aside, json.dumps(asdict(release), indent=1))
                aside.rename(path)
                _sync(self.root)
        except OSError as why:
            raise StoreError(f"{path}: cannot be written: {why}") from why

    def _publish(self, src_dir: Path, kind: str, parent: str | None, meta: Mapping[str, Any]) -> ModelVersion:
        self._clean()
        release = self.release
        needed = {parent} | (release.needed if release else frozenset())  # the parent runs until the new one is live
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self.root))
        try:
            _copy(src_dir, aside)
            base = self._rebase(src_dir, aside)
            files = digests(aside)
            sha256, number = digest_of(files), self._next_number(kind)
            name = f"{kind}-{number:04d}-{sha256[:8]}"
            named = {"version": name, "sha256": sha256, "parent": parent, "base": base, "published": time.time()}
            manifest = {**named, "meta": dict(meta), "files": files}
            _write(aside / MANIFEST, json.dumps(manifest, indent=1))
            _sync_directories(aside)
            aside.chmod(0o755)  # mkdtemp's 0700 would hide it from engines of other users
            aside.rename(self.root / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync(self.root)
        self._retire(kind, needed)
        return self.read(name)

    def _rebase(self, src_dir: Path, aside: Path) -> str | None:
        """Let the copy of an adapter name its base within this store, with its checksum; the base's version."""
        if (found := base_of(src_dir)) is None:
            return None
        path = found.path.resolve()
        if path.parent != self.root.resolve() or (base := self.read(path.name)).base:
            raise StoreError(f"{src_dir}: an adapter of {path}, which is no whole version in {self.root}")
        _sync(write_base(aside, Path("..", base.version), base.sha256))
        return base.version

    def _next_number(self, kind: str) -> int:
        """One more than ever before, deleted versions and failed publications included."""
        path = self.root / f".number-{kind}"
        used = max([v.number for v in self.list(kind)], default=0)
        counted = int(path.read_text()) if path.is_file() else 0
        number = max(used, counted) + 1
        aside = path.with_suffix(".new")
        _write(aside, str(number))
        aside.rename(path)
        return number

    def _retire(self, kind: str, needed: Collection[str | None]) -> None:
        versions = self.list(kind)
        apart = ([v.version for v in versions if v.site == site] for site in {v.site for v in versions})
        kept = {*needed}.union(*(names[-self._keep :] for names in apart))
        kept |= {v.base for v in versions if v.version in kept}
        for old in versions:
            if old.version not in kept:
                (old.path / MANIFEST).unlink()  # first: without it the rest is not a version
                shutil.rmtree(old.path)

    def _clean(self) -> None:
        """Remove what killed publications left; the lock says that none is running."""
        for left_over in self.root.glob(f"{_ASIDE}*"):
            shutil.rmtree(left_over, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def verify(path: Path, sha256: str | None) -> None:
    """Check every file of a version's directory, and of its base's.

    Raises:
        StoreError: names the first file that is missing, added or changed, or says that the checksum is another's.
    """
    try:
        promised = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        found = digests(path)
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise StoreError(f"{path}: not a complete model version: {why!r}") from why
    for name in sorted({*promised, *found}):
        if promised.get(name) != found.get(name):
            state = "missing" if name not in found else "not part of it" if name not in promised else "changed"
            raise StoreError(f"{path / name}: fails its checksum: the file is {state}")
    if digest_of(found) != sha256:
        raise StoreError(f"{path}: its checksum is {digest_of(found)}, not {sha256}")
    if base := base_of(path):
        verify(base.path, base.sha256)


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of every file under ``path`` except the manifest, by relative name."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)
    return {file.relative_to(path).as_posix(): _sha256(file) for file in files}


def weight_digests(path: Path) -> dict[str, str]:
    """SHA-256 of the weights among them: two directories with the same ones hold the same model."""
    return {file.relative_to(path).as_posix(): _sha256(file) for file in sorted(path.rglob("*.safetensors"))}


def digest_of(files: Mapping[str, str]) -> str:
    """One SHA-256 for a whole list of files."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _copy(src_dir: Path, aside: Path) -> None:
    if not (src_dir / "config.json").is_file():
        raise StoreError(f"{src_dir}: not a model directory, it holds no config.json")
    skip = shutil.ignore_patterns(MANIFEST, ".*")
    shutil.copytree(src_dir, aside, dirs_exist_ok=True, ignore=skip)  # follows links: a Hub cache is made of them
    for file in aside.rglob("*"):
        if file.is_file():
            _sync(file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync_directories(path: Path) -> None:
    for directory in [*(p for p in path.rglob("*") if p.is_dir()), path]:
        _sync(directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
