"""The fitted threshold that a version of the weights brings along: where it lies, and whose scores it is for.

A threshold means something for the scores it was fitted on alone, and every file of a version may have a part in its
scores. So the file names the checksum of all the others (``scores_id``): beside other files, or for another scorer, it
is refused. ``orchestrator.refit`` writes it, ``orchestrator.rules`` decides with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.adapter_base import BASE_FILE
from actors.model_store import MANIFEST, digest_of
from actors.scorers import scorer_file
from policies.errors import BadConfig
from policies.policy_file import load_policy
from policies.threshold import ThresholdPolicy

FITTED = ("funcdyn", "policynet")  # the kinds of threshold that are fitted on data
THRESHOLD_FILE = "threshold.json"  # not policy.json: where no version is, the directory is the working directory


def scores_id(files: Mapping[str, str], scorer: str) -> str:
    """Whose scores these are.

    Args:
        files: SHA-256 of the version's files by relative name (``actors.model_store.digests``).
        scorer: the configured one; log-probabilities score where the version has no file of it.
    """
    running = scorer if scorer_file(Path(), scorer).name in files else "logprob"
    apart = (THRESHOLD_FILE, BASE_FILE)  # the latter says where an adapter's base is, which publishing changes
    others = {name: digest for name, digest in files.items() if name not in apart and not name.startswith(".")}
    return f"{running}-{digest_of(others)[:16]}"


def own_threshold(directory: Path, scorer: str) -> ThresholdPolicy | None:
    """The threshold in a version's directory; None where there is none.

    Raises:
        BadConfig: it is not the file that was published, cannot be read, or was fitted on other scores.
    """
    files = _manifest(directory).get("files", {})
    if THRESHOLD_FILE not in files:
        return None
    path = directory / THRESHOLD_FILE
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as why:
        raise BadConfig(f"{path}: cannot be read ({why.strerror}). Fix: run a training round") from None
    if found != files[THRESHOLD_FILE]:
        raise BadConfig(f"{path}: fails its checksum: the file is changed. Fix: run a training round")
    return load_policy(path, scores_id(files, scorer))


def has_parent(directory: Path) -> bool:
    """Whether the version in ``directory`` was made from another one."""
    return _manifest(directory).get("parent") is not None


def _manifest(directory: Path) -> Mapping[str, Any]:
    """Empty where there is none, as for a remote model."""
    try:
        data = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return {**data, "files": dict(data["files"])}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as why:
        raise BadConfig(f"{directory / MANIFEST}: cannot be read: {why!r}. Fix: start with another version") from None
