"""Reading a settings file: YAML with line numbers, and mistakes explained in one sentence.

``read`` finds what a schema check cannot say well: syntax errors, keys given twice, unknown keys with the nearest
known one. ``explain`` turns a pydantic error into file, line, key, value and fix. It knows no setting by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from policies.errors import BadConfig

Known = type[BaseModel] | type[Any]


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds: its data and the line (from 1) of every dotted key."""

    path: Path | None
    data: Mapping[str, Any]
    lines: Mapping[str, int]

    def place(self, key: str) -> str:
        """``file, line N: key``, as far as known."""
        line = self.lines.get(key)
        where = ", ".join(part for part in (str(self.path or ""), f"line {line}" if line else "") if part)
        return f"{where}: {key}" if where else key


def read(path: Path, schema: Known) -> Document:
    """Read ``path`` as YAML whose keys are those of ``schema``.

    Raises:
        BadConfig: unreadable, not YAML, not a mapping, a key twice, or an unknown key.
    """
    keys, data = _parse(path)
    lines: dict[str, int] = {}
    for key, line in keys:
        if key in lines:
            raise BadConfig(f"{path}, line {line}: {key} was already given on line {lines[key]}. Fix: keep one")
        lines[key] = line
    document = Document(path, _without_empty(data, schema), lines)
    _refuse_unknown(document, document.data, schema, "")
    return document


def explain(why: ValidationError, document: Document, schema: Known) -> str:
    """One sentence for the first mistake in ``why`` (a rule between settings explains itself)."""
    first = why.errors()[0]
    key = _written(".".join(str(part) for part in first["loc"]), document, first["type"])
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        named, _, rest = message.partition(": ")
        return f"{document.place(key)}: {message}" if key else f"{document.place(named)}: {rest}"
    if first["type"] == "missing":
        return f"{document.place(key)}: missing. Fix: set it{_meaning(schema, key)}"
    wanted = first["msg"].replace("Input should", "it must")
    return f"{document.place(key)}: {first['input']!r} cannot be used: {wanted}. Fix: change it{_meaning(schema, key)}"


def _written(key: str, document: Document, kind: str) -> str:
    """The key as it stands in the file: pydantic appends the tried type to keys that allow several."""
    parent = key.rpartition(".")[0]
    return parent if kind != "missing" and key not in document.lines and parent in document.lines else key


def _parse(path: Path) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Every key with its line, and the file as data."""
    text = _text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        keys = list(_keys(root, "")) if isinstance(root, yaml.MappingNode) else []
    except yaml.YAMLError as why:
        raise BadConfig(f"{path}{_mark(why)}: not YAML: {_problem(why)}. Fix: check the syntax there") from None
    except (ValueError, RecursionError) as why:  # a date or a number that is none, a section that holds itself
        raise BadConfig(f"{path}: a value cannot be read: {why}. Fix: remove it, or put it in quotes") from None
    if data is not None and not isinstance(data, dict):
        raise BadConfig(f"{path}: the file holds {data!r:.40} and no sections. Fix: write 'site:' and its settings")
    return keys, data or {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadConfig(
            f"{path}: no such file. Fix: give an existing one, for instance a copy from examples/"
        ) from None
    except (OSError, UnicodeDecodeError) as why:
        raise BadConfig(f"{path}: cannot be read: {why}. Fix: give a UTF-8 text file") from None


def _without_empty(data: Mapping[str, Any], schema: Known) -> dict[str, Any]:
    """Drop sections that are written but left empty (``site:`` with every setting commented out)."""
    sections = {name for name, known in _fields(schema).items() if _fields(known)}
    return {name: value for name, value in data.items() if value is not None or name not in sections}


def _mark(why: yaml.YAMLError) -> str:
    mark = getattr(why, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _problem(why: yaml.YAMLError) -> str:
    return str(getattr(why, "problem", None) or why).splitlines()[0]


def _keys(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int]]:
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        yield key, name.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, f"{key}.")


def _refuse_unknown(document: Document, data: Mapping[Any, Any], schema: Known, prefix: str) -> None:
    known = _fields(schema)
    for name, value in data.items():
        key = f"{prefix}{name}"
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise BadConfig(f"{document.place(key)}: unknown setting. Fix: remove it; {hint}")
        if isinstance(value, Mapping) and _fields(known[name]):
            _refuse_unknown(document, value, known[name], f"{key}.")
        elif isinstance(value, bool) and not _allows_bool(known[name]):  # pydantic would take it for 1 or 0
            raise BadConfig(f"{document.place(key)}: {value} is yes or no. Fix: give a number or text (in quotes)")


def _allows_bool(kind: Any) -> bool:
    return kind in (bool, Any) or any(map(_allows_bool, get_args(kind)))


def _fields(schema: Known) -> dict[str, Any]:
    """The names a section knows, each with its type (another section or a plain one)."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {name: field.annotation for name, field in schema.model_fields.items()}
    if dataclasses.is_dataclass(schema):
        return {name: kind for name, kind in get_type_hints(schema).items() if not name.startswith("_")}
    return {}


def _meaning(schema: Known, key: str) -> str:
    """What the setting at ``key`` is, in its own documentation's words."""
    section: Any = schema
    for name in key.split(".")[:-1]:
        section = _fields(section).get(name)
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return ""
    field = section.model_fields.get(key.rpartition(".")[2])
    return f" ({' '.join(field.description.split()).rstrip('.')})" if field and field.description else ""
