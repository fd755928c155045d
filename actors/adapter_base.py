"""Which model an adapter directory belongs to: ``base.json`` beside its ``adapter_model.safetensors``.

An adapter (LoRA) holds the low-rank changes alone; its directory has everything else that a model's has (configuration,
tokenizer, calibrator), so only who reads weights has to know of the base. A base is always a whole model, never another
adapter. In a store the path is relative and ``sha256`` vouches for the base, as the adapter's own checksum
does for ``base.json``. Imports nothing heavy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from policies.errors import StoreError

BASE_FILE = "base.json"
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # around a module's name, as peft has it


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter changes: its directory and its checksum, None outside a store."""

    path: Path
    sha256: str | None = None


def base_of(directory: Path) -> Base | None:
    """The base of an adapter's directory, None for a whole model's.

    Raises:
        StoreError: the directory's ``base.json`` cannot be read.
    """
    file = directory / BASE_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return Base(directory / data["path"], data["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise StoreError(f"{file}: cannot be read: {why!r}") from why


def whole(directory: Path) -> Path:
    """Where the whole weights are: the directory itself, or its base's.

    Raises:
        StoreError: the directory's ``base.json`` cannot be read.
    """
    base = base_of(directory)
    return base.path if base else directory


def write_base(directory: Path, path: Path, sha256: str | None = None) -> Path:
    """Say that ``directory`` is an adapter of the model in ``path`` (absolute, or relative to it); the file written."""
    file = directory / BASE_FILE
    file.write_text(json.dumps({"path": str(path), "sha256": sha256}), encoding="utf-8")
    return file
