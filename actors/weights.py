"""What may be loaded into a live engine: safetensors that fit, checked before the engine is touched.

A reload that fails half-way leaves a model of two halves, so everything that can be known from the files is
asked first: present, readable, the same names and shapes as the live weights, and finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from policies.errors import EngineError

Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(directory: Path) -> Shapes:
    """Names and shapes of the tensors in ``directory``'s safetensors files (empty where it has none).

    Raises:
        EngineError: a file cannot be read; names the file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as why:
            raise EngineError(f"weights {file}: {why}") from why
    return shapes


def check_weights(directory: Path, live: Shapes) -> None:
    """Make sure the weights in ``directory`` can replace the ``live`` ones.

    Raises:
        EngineError: they cannot; names the directory, the tensor and why.
    """
    found = read_shapes(directory)
    if not found:
        raise EngineError(f"weights {directory}: no safetensors file there")
    check_shapes(directory, found, live)
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


def _check_finite(directory: Path) -> None:
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if not torch.isfinite(tensors.get_tensor(name)).all():
                    raise EngineError(f"weights {directory}: {name} has values that are not finite")
