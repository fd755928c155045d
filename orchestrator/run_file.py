"""``var/run.json``: where a running system is and how it does, for ``netgpt status`` and ``netgpt ask``.

The serving process writes it whole every few seconds (aside, then renamed) and removes it when it ends. It holds the
dashboard's token, so only its owner may read it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from policies.errors import NetGPTError


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
    aside.rename(path)


def read(path: Path) -> dict[str, Any]:
    """The record of the system that runs.

    Raises:
        NetGPTError: none runs, or the process that wrote the file is gone.
    """
    start = "Fix: start one with netgpt serve -c examples/single-machine.yaml"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        pid = int(record["pid"])
    except FileNotFoundError:
        raise NetGPTError(f"no system runs here ({path} does not exist). {start}") from None
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise NetGPTError(f"{path}: cannot be read: {why}. {start}") from None
    if not _alive(pid):
        raise NetGPTError(f"the system that wrote {path} (process {pid}) has ended. {start}")
    return record


def remove(path: Path) -> None:
    """The system has ended."""
    path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
