"""How far two versions' weights are apart: ||B - A|| / ||A|| of every tensor, one tensor in memory at a time.

An adapter counts as its base with its changes: numpy's own sum, as nothing here needs torch.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actors.adapter_base import ADAPTER_CONFIG, ADAPTER_FILE, DOWN, PREFIX, UP, whole
from policies.errors import StoreError
from policies.score import FloatArray

FURTHEST = 8  # tensors named; the others are summed up
LONGEST_HEADER = 100 << 20  # the format's own limit
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: ``start`` is in bytes from the beginning of ``file``, ``count`` in numbers.

    ``change``, if any, is what an adapter adds to it: the low-rank factors [out, r] and [r, in], and their scale.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    change: tuple[Tensor, Tensor, float] | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read(self) -> FloatArray:
        """Its numbers, [count]."""
        if self.change is not None:
            up, down, scale = self.change
            added = up.read().reshape(up.shape) @ down.read().reshape(down.shape)
            return replace(self, change=None).read() + scale * added.ravel()
        if not self.count:
            return np.zeros(0)
        raw = np.memmap(self.file, _DTYPES[self.dtype], "r", self.start, (self.count,))
        if self.dtype == "BF16":  # the upper half of a float32, which numpy does not know by itself
            return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
        return np.asarray(raw, dtype=np.float64)


def distances(old: Path, new: Path) -> Iterator[str]:
    """Lines about the weights of two model directories.

    Raises:
        StoreError: a file is not in the safetensors format.
    """
    before, after = tensors(old), tensors(new)
    if not before and not after:
        yield "weights   none in the safetensors format"
        return
    for name in sorted({*before} ^ {*after}):
        yield f"weights   {name}: {'removed' if name in before else 'added'}"
    both = [name for name in before if name in after]
    apart = {name: relative(before[name], after[name]) for name in both}
    yield f"weights   {sum(not value for value in apart.values())} of {len(both)} tensors the same"
    furthest = sorted((name for name in both if apart[name]), key=lambda name: -apart[name])
    for name in furthest[:FURTHEST]:
        yield f"weights   {name}: {_share(apart[name])}"
    if left := furthest[FURTHEST:]:
        yield f"weights   {len(left)} more, at most {_share(apart[left[0]])}"


def relative(old: Tensor, new: Tensor) -> float:
    """||new - old|| / ||old||; infinite where shapes differ, or where only ``old`` is 0."""
    if old.shape != new.shape:
        return math.inf
    before, after = old.read(), new.read()
    moved, norm = float(np.linalg.norm(after - before)), float(np.linalg.norm(before))
    return 0.0 if moved == 0.0 else moved / norm if norm else math.inf


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of floating-point numbers in the directory's safetensors files, by name.

    Raises:
        StoreError: a file cannot be read, or an adapter does not fit its base.
    """
    if whole(directory) == directory:
        return {name: found for file in sorted(directory.glob("*.safetensors")) for name, found in _in_file(file)}
    found = tensors(whole(directory))
    for name, change in _changes(directory).items():
        if name not in found or found[name].shape != (change[0].shape[0], change[1].shape[1]):
            raise StoreError(f"{directory / ADAPTER_FILE}: {name} does not fit its base")
        found[name] = replace(found[name], change=change)
    return found


def _changes(directory: Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """What an adapter adds, by the name of its base's tensor (see ``actors.weights`` for the names)."""
    parts = dict(_in_file(directory / ADAPTER_FILE))
    try:
        settings = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        scale = float(settings["lora_alpha"] / settings["r"])
        names = [name.removesuffix(DOWN) for name in parts if name.endswith(DOWN)]
        return {f"{n.removeprefix(PREFIX)}.weight": (parts[n + UP], parts[n + DOWN], scale) for n in names}
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as why:
        raise StoreError(f"{directory}: not a readable adapter: {why!r}") from None


def _in_file(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] in _DTYPES:
                yield name, Tensor(file, about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0])
    except (OSError, ValueError, KeyError, TypeError, struct.error, AttributeError) as why:
        raise StoreError(f"{file}: not in the safetensors format: {why!r}") from None


def _share(value: float) -> str:
    return f"moved by {value:.2%} of its norm" if math.isfinite(value) else "of another shape, or was 0"
