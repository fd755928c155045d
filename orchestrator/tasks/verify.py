"""Judging an answer against a task's ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.tasks.generator import Task
from policies.toolcalls import canonical, check, parse
from policies.types import ToolCall


def is_correct(task: Task, calls: Sequence[ToolCall]) -> bool:
    """Exact match after canonicalisation: order of calls and keys, and 5 against 5.0, do not matter."""
    return canonical(calls) == canonical(task.answer)


def is_schema_valid(task: Task, text: str) -> bool:
    """Whether ``text`` parses, calls offered tools only, and its arguments pass their schemas."""
    return check(parse(text), task.tools) is None
