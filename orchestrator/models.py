"""``netgpt models list | show | diff``: the store of a configuration in words; nothing of it needs Ray or torch.

``list`` and ``show`` read manifests, ``show`` and ``diff`` check every file as well. A version that is damaged is shown
as such, and never compared. What moves versions is ``orchestrator.releases``; this only reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from actors.model_store import ModelStore, ModelVersion, verify
from policies.errors import StoreError
from policies.release import Release

NOTHING = "-"
Row = tuple[str, ...]
HEAD: Row = ("version", "state", "published", "size", "samples", "gain", "site", "parent")


def listed(store: ModelStore) -> Iterator[str]:
    """One line a version, by number.

    Raises:
        StoreError: there is none, or the record of what is live is damaged.
    """
    release, names = store.release, store.names()
    if not names:
        raise StoreError(f"{store.root} holds no version of the edge model. Fix: run netgpt serve with this -c")
    rows = [HEAD, *(_row(store, name, release) for name in names)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def shown(store: ModelStore, version: str) -> Iterator[str]:
    """The lineage of one version.

    Raises:
        StoreError: there is none of that name, or its manifest cannot be read.
    """
    found, release = store.read(version), store.release
    yield f"version     {found.version}  {release.role(found.version) if release else ''}".rstrip()
    yield f"published   {_when(found.published)}"
    yield f"parent      {' <- '.join(_ancestors(store, found)) or 'none: it is the model that was configured'}"
    if found.base is not None:
        yield f"adapter of  {found.base}"
    yield f"files       {len(found.files)}, {_size(found)}, {_state(found)}"
    yield f"sha256      {found.sha256}"
    yield from _made(found.meta)
    for move in release.moves if release else ():
        if move.version == found.version:
            where = f" at {move.site}" if move.site else ""
            yield f"{move.what:<11} {_when(move.time_us / 1e6)}{where}: {move.why}"


def compared(store: ModelStore, first: str, second: str) -> Iterator[str]:
    """What is different in ``second``.

    Raises:
        StoreError: one of them is not there, or damaged.
    """
    from orchestrator.weight_distance import distances  # noqa: PLC0415  (numpy, which nothing else here needs)

    old, new = store.get(first), store.get(second)
    yield f"{old.version} -> {new.version}"
    yield from _changes("options", _part(old, "options"), _part(new, "options"))
    yield from _changes("gate", _part(old, "gate"), _part(new, "gate"))
    yield from _changed_files(old, new)
    yield from distances(old.path, new.path)


def _row(store: ModelStore, name: str, release: Release | None) -> Row:
    role = release.role(name) if release else ""
    try:
        found = store.read(name)
    except StoreError:
        return (name, "damaged", *[NOTHING] * (len(HEAD) - 2))
    samples = str(found.meta.get("samples", NOTHING))
    published, gain = _when(found.published), _gain(_part(found, "gate"))
    state = role.split(" at ", maxsplit=1)[0] or NOTHING  # where is in a column of its own
    return (name, state, published, _size(found), samples, gain, found.site or "all", found.parent or NOTHING)


def _made(meta: Mapping[str, Any]) -> Iterator[str]:
    """How it came to be, part by part; a meta of any other shape is shown as it is."""
    words = {
        "base": "model",
        "site": "site",
        "samples": "samples",
        "anchors": "anchors",
        "labelled": "labelled",
        "scorer": "scorer",
    }
    for key, name in words.items():
        if key in meta:
            yield f"{name:<11} {meta[key]}"
    log = meta.get("log")
    for site, seqs in log.items() if isinstance(log, dict) else ():
        yield f"log         site {site}, records {' to '.join(map(str, seqs)) if isinstance(seqs, list) else seqs}"
    for key in ("poisoned", "options", "gate", "training", "refits"):
        for name, value in meta[key].items() if isinstance(meta.get(key), dict) else ():
            yield f"{key:<11} {name}: {_figure(value)}"
    for key in sorted(set(meta) - {*words, "log", "poisoned", "options", "gate", "training", "refits"}):
        yield f"{key:<11} {_figure(meta[key])}"


def _ancestors(store: ModelStore, version: ModelVersion) -> Iterator[str]:
    seen = {version.version}
    while (parent := version.parent) is not None and parent not in seen:
        seen.add(parent)
        try:
            version = store.read(parent)
        except StoreError:
            yield f"{parent} (no longer in the store)"
            return
        yield parent


def _changes(title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    different = [key for key in (*old, *(k for k in new if k not in old)) if old.get(key) != new.get(key)]
    if not different:
        yield f"{title:<9} the same" if old else f"{title:<9} none in either"
    for key in different:
        before, after = (_figure(side[key]) if key in side else NOTHING for side in (old, new))
        yield f"{title:<9} {key}: {before} -> {after}"


def _changed_files(old: ModelVersion, new: ModelVersion) -> Iterator[str]:
    names = sorted({*old.files, *new.files})
    changed = [name for name in names if old.files.get(name) != new.files.get(name)]
    yield f"files     {len(names) - len(changed)} the same"
    for name in changed:
        state = "added" if name not in old.files else "removed" if name not in new.files else "changed"
        yield f"files     {name}: {state}"


def _part(version: ModelVersion, key: str) -> Mapping[str, Any]:
    found = version.meta.get(key)
    return found if isinstance(found, dict) else {}


def _gain(gate: Mapping[str, Any]) -> str:
    try:
        gain, low, high = (100.0 * float(gate[key]) for key in ("gain", "gain_low", "gain_high"))
    except (KeyError, TypeError, ValueError):
        return NOTHING
    return f"{gain:+.1f} [{low:+.1f}, {high:+.1f}] points"


def _state(version: ModelVersion) -> str:
    try:
        verify(version.path, version.sha256)
    except StoreError as why:
        return f"damaged: {why}"
    return "all as published"


def _size(version: ModelVersion) -> str:
    sizes = ((version.path / name) for name in version.files)
    return f"{sum(path.stat().st_size for path in sizes if path.is_file()) / 1e6:.1f} MB"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "unknown"


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
