"""What may be loaded into a live engine: safetensors that fit, checked before the engine is touched.

A reload that fails half-way leaves a model of two halves, so everything that can be known from the files is
asked first: present, readable, the same names and shapes as the live weights, and finite.

An adapter's directory is read as the whole model it stands for: base + (alpha / r) B A, computed in float32 tensor by
tensor and rounded to the base's own format. So every engine swaps to an adapter exactly as to a whole model, and
answers as fast; what it costs is reading the base again, and, in bfloat16, changes below 2^-9 of a weight.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from actors.adapter_base import ADAPTER_CONFIG, ADAPTER_FILE, DOWN, PREFIX, UP, base_of, whole
from policies.errors import EngineError

Shapes = Mapping[str, tuple[int, ...]]

_OTHER_KINDS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save")


@dataclass(frozen=True, slots=True)
class Change:
    """A low-rank change of one weight [out, in]: ``up`` [out, r], ``down`` [r, in], float32, and its scale."""

    up: torch.Tensor
    down: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight."""
        return self.up.shape[0], self.down.shape[1]

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` with the change, in its own format."""
        return (weight.float() + self.scale * (self.up @ self.down)).to(weight.dtype)


def read_shapes(directory: Path) -> Shapes:
    """Names and shapes of the tensors in ``directory``'s safetensors files (empty where it has none).

    Raises:
        EngineError: a file cannot be read; names the file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(directory):
        with _opened(file) as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def read_tensors(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model that ``directory`` stands for, one in memory at a time.

    Raises:
        EngineError: a file cannot be read, or an adapter does not fit its base; names the file.
    """
    changes = read_adapter(directory)
    for file in _files(directory):
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                change = changes.pop(name, None)
                yield name, change.of(tensor) if change else tensor
    for name in changes:
        raise EngineError(f"adapter {directory}: it changes {name}, which its base has not")


def read_adapter(directory: Path) -> dict[str, Change]:
    """What an adapter changes, by the names of its base's tensors; nothing for a whole model.

    Raises:
        EngineError: it cannot be read, or is of a kind that cannot be merged; names the file.
    """
    if base_of(directory) is None:
        return {}
    file = directory / ADAPTER_FILE
    try:
        config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
        scale, others = config["lora_alpha"] / config["r"], [key for key in _OTHER_KINDS if config.get(key)]
        if others:
            raise ValueError(f"{', '.join(others)} cannot be merged here")
        names = [name.removeprefix(PREFIX).removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
        changes = {
            f"{name}.weight": Change(tensors.pop(PREFIX + name + UP), tensors.pop(PREFIX + name + DOWN), scale)
            for name in names
        }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as why:
        raise EngineError(f"adapter {file}: {why!r}") from why
    for name in tensors:
        raise EngineError(f"adapter {file}: {name} is no part of a plain LoRA")
    return changes


def check_weights(directory: Path, live: Shapes) -> None:
    """Make sure the weights in ``directory`` can replace the ``live`` ones.

    Raises:
        EngineError: they cannot; names the directory, the tensor and why.
    """
    found = read_shapes(directory)
    if not found:
        raise EngineError(f"weights {whole(directory)}: no safetensors file there")
    check_shapes(directory, found, live)
    check_adapter(directory, found)
    _check_finite(directory)


def check_shapes(source: Path | str, found: Shapes, live: Shapes) -> None:
    """Make sure what was ``found`` in ``source`` has the names and shapes of the ``live`` weights.

    Raises:
        EngineError: it has not; names ``source`` and the tensor.
    """
    for name in sorted(set(live) ^ set(found)):
        raise EngineError(f"weights {source}: {name} is {'missing' if name in live else 'not in the live model'}")
    for name, shape in live.items():
        if found[name] != shape:
            raise EngineError(f"weights {source}: {name} has shape {found[name]}, the live model {shape}")


def check_adapter(directory: Path, base: Shapes) -> None:
    """Make sure that an adapter changes tensors that its base has, by finite numbers; nothing for a whole model.

    Raises:
        EngineError: it does not; names the directory and the tensor.
    """
    for name, change in read_adapter(directory).items():
        if base.get(name) != change.shape or change.up.shape[1] != change.down.shape[0]:
            raise EngineError(f"adapter {directory}: {name} has shape {base.get(name)}, its change {change.shape}")
        if not (torch.isfinite(change.up).all() and torch.isfinite(change.down).all()):
            raise EngineError(f"adapter {directory}: {name} has values that are not finite")


def _check_finite(directory: Path) -> None:
    for name, tensor in read_tensors(directory):
        if not torch.isfinite(tensor).all():
            raise EngineError(f"weights {directory}: {name} has values that are not finite")


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in whole(directory).glob("*.safetensors") if file.name != ADAPTER_FILE)


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as why:
        raise EngineError(f"weights {file}: {why}") from why
