"""Who says whether an answer is right: the bundled tasks' verifiers, or one of the user's own by its dotted name.

A verifier takes a task and the text of an answer, and returns True or False. It must be fast and deterministic: it is
asked for every sampled answer of every step. What a task is belongs to whoever samples it; the bundled ones are
``tasks.generator.Task`` and ``tasks.countdown.Puzzle``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from orchestrator.tasks import countdown
from orchestrator.tasks.generator import Task
from orchestrator.tasks.verify import is_correct
from policies.errors import BadConfig
from policies.toolcalls import parse

Verifier = Callable[[Any, str], bool]


def makes_right_calls(task: Task, text: str) -> bool:
    """Whether ``text`` parses and calls what the task asks for."""
    return is_correct(task, parse(text).calls)


VERIFIERS: Mapping[str, Verifier] = {"tools": makes_right_calls, "countdown": countdown.is_solved}


def load_verifier(name: str) -> Verifier:
    """A bundled verifier by its short name, or the user's function by ``package.module.function``.

    The user's function is watched: an answer other than True or False is a BadConfig when it is given, since 0.7 or
    None would silently count as right or wrong.

    Raises:
        BadConfig: the module cannot be imported, has no such function, or it does not take (task, text).
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    module, _, function = name.rpartition(".")
    if not module or not function:
        known = ", ".join(VERIFIERS)
        raise _bad(name, f"is not known: use one of {known}, or package.module.function for your own")
    return _watched(name, _found(name, module, function))


def _found(name: str, module: str, function: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] | None = getattr(import_module(module), function, None)
    except ModuleNotFoundError as why:
        raise _bad(name, f"{why}: install it, or put its directory on PYTHONPATH") from why
    except Exception as why:  # whatever a user's module does when it is imported
        raise _bad(name, f"importing {module} failed: {type(why).__name__}: {why}") from why
    if found is None or not callable(found):
        raise _bad(name, f"{module} has no function {function!r}")
    try:
        inspect.signature(found).bind(None, "")
    except TypeError as why:
        raise _bad(name, f"it must take (task, text): {why}") from why
    return found


def _watched(name: str, function: Callable[..., Any]) -> Verifier:
    def verify(task: Any, text: str) -> bool:
        verdict = function(task, text)
        if not isinstance(verdict, bool):
            raise _bad(name, f"it must return True or False, got {verdict!r:.80}")
        return verdict

    return verify


def _bad(name: str, why: str) -> BadConfig:
    return BadConfig(f"verifier {name!r}: {why}")
