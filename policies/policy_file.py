"""A threshold policy as one JSON file, of any kind: what ``netgpt train policy`` writes and a site loads.

    {"format": 2, "kind": "policynet", "score_version": "edge-0003", "fitted": {...}, "parameters": {...}}

A threshold means something for the scores it was fitted on alone, so the file names the version that made them and is
refused for another. ``fitted`` says on what it was fitted and is for people; ``parameters`` are the policy's fields.
Reading needs neither Ray nor torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from os.path import isdir
from pathlib import Path
from typing import Any

from policies.errors import BadConfig
from policies.funcdyn import FuncDyn, StateInputs
from policies.gain import GainCurve
from policies.json_fields import LARGEST
from policies.policynet import PolicyNet
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy
from policies.types import CloudSpeed, Objective

FORMAT = 2  # 1 had a sigmoid in FuncDyn
FIX = "write it anew with `netgpt train policy`"

KINDS: dict[str, type] = {
    "fixed": FixedThreshold,
    "optimal": OptimalThreshold,
    "funcdyn": FuncDyn,
    "policynet": PolicyNet,
}
_PARTS: dict[str, Callable[..., Any]] = {
    "inputs": StateInputs,
    "objective": Objective,
    "speed": CloudSpeed,
    "curve": GainCurve,
}


def dumps(policy: ThresholdPolicy, score_version: str, fitted: Mapping[str, Any]) -> str:
    """The file's text.

    Raises:
        ValueError: ``fitted`` holds a number that is not finite.
        BadConfig: there is no such kind of policy.
    """
    kind = next((name for name, cls in KINDS.items() if type(policy) is cls), None)
    if kind is None:
        raise BadConfig(f"a {type(policy).__name__} cannot be written. Fix: use one of {', '.join(KINDS)}")
    data = {"format": FORMAT, "kind": kind, "score_version": score_version, "fitted": dict(fitted)}
    return json.dumps({**data, "parameters": _plain(policy)}, indent=1, allow_nan=False) + "\n"


def save(path: Path, policy: ThresholdPolicy, score_version: str, fitted: Mapping[str, Any]) -> None:
    """Write the file whole or not at all.

    Raises:
        BadConfig: the path cannot be written, or there is no such kind of policy.
        ValueError: ``fitted`` holds a number that is not finite.
    """
    text = dumps(policy, score_version, fitted)
    if not path.name or isdir(path):
        raise BadConfig(f"{path}: the policy cannot be written (it is a directory). Fix: name another file")
    aside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as why:
        raise BadConfig(f"{path}: the policy cannot be written ({why.strerror}). Fix: name another file") from why


def load_policy(path: Path, score_version: str | None) -> ThresholdPolicy:
    """The policy in ``path``.

    Args:
        score_version: the version that makes the scores it will decide on; None takes whatever the file says.

    Raises:
        BadConfig: the file cannot be read, a key is missing or wrong, or it was fitted on another version's scores.
    """
    data = _read(path)
    if data["format"] != FORMAT:
        raise BadConfig(f"{path}: format: this program reads {FORMAT}, got {data['format']!r}. Fix: {FIX}")
    if score_version is not None and data["score_version"] != score_version:
        raise BadConfig(
            f"{path}: score_version: fitted on the scores of {data['score_version']!r}, but {score_version!r} is "
            f"scoring. Fix: {FIX} on a log of {score_version!r}"
        )
    cls = KINDS.get(data["kind"]) if isinstance(data["kind"], str) else None
    if cls is None:
        raise BadConfig(f"{path}: kind: must be one of {', '.join(KINDS)}, got {data['kind']!r}. Fix: {FIX}")
    policy: ThresholdPolicy = _build(path, cls, data["parameters"], "parameters")
    return policy


def _plain(value: Any) -> Any:
    """A record as JSON: what it is made from, not what it derives."""
    if not is_dataclass(value):
        return value
    parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    return {name: _plain(part) for name, part in parts.items() if part is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as why:
        raise BadConfig(f"{path}: the policy cannot be read ({why.strerror}). Fix: {FIX}") from None
    except (ValueError, RecursionError) as why:
        raise BadConfig(f"{path}: not a policy file: {why}. Fix: {FIX}") from None
    if not isinstance(data, dict):
        raise BadConfig(f"{path}: not a policy file: a JSON object is needed. Fix: {FIX}")
    for key in ("format", "kind", "score_version", "fitted", "parameters"):
        if key not in data:
            raise BadConfig(f"{path}: {key}: this key is missing. Fix: {FIX}")
    return data


def _build(path: Path, cls: Callable[..., Any], given: Any, where: str) -> Any:
    """An instance of a record from its JSON object; every field must be there but those that may be None, no other."""
    if not isinstance(given, dict):
        raise BadConfig(f"{path}: {where}: must be an object, got {type(given).__name__}. Fix: {FIX}")
    names = {field.name: field.default is None for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in (*names, *given):
        if name not in names or (name not in given and not names[name]):
            wrong = "is missing" if name in names else "does not belong there"
            raise BadConfig(f"{path}: {where}.{name}: this key {wrong}. Fix: {FIX}")
    parts = {name: _value(path, name, value, f"{where}.{name}") for name, value in given.items()}
    try:
        return cls(**parts)
    except (ValueError, TypeError) as why:
        raise BadConfig(f"{path}: {where}: {why}. Fix: {FIX}") from why


def _value(path: Path, name: str, value: Any, where: str) -> Any:
    """A nested record, a number, or numbers as tuples."""
    if name in _PARTS:
        return _build(path, _PARTS[name], value, where)
    if isinstance(value, list):
        return tuple(_value(path, "", one, where) for one in value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise BadConfig(f"{path}: {where}: must be a finite number, got {value!r}. Fix: {FIX}")
    if abs(value) > LARGEST:
        raise BadConfig(f"{path}: {where}: must be at most {LARGEST:g} in size, got {value!r}. Fix: {FIX}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is in it, which is no number")
