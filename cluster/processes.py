"""Seeing to it that a local Ray session leaves no process behind.

Ray ends its own processes; what those started (engines, HAProxy, idle workers) notices a moment later. ``tree`` takes
down who belongs to a session while it lives, ``wait_gone`` waits for them and kills what stays. Where the process that
held a session was itself killed nobody did; ``end_orphans`` is for the next one. ``give_way`` is for what must not take
a core from what serves.
"""

from __future__ import annotations

import logging
import os
import sys

import psutil

log = logging.getLogger(__name__)

GRACE_S = 8.0  # engines end 2-3 s after their parent; more means that they hang
RAY_TITLE = "ray::"  # how the command line of every Ray worker begins
LOWEST = 19  # niceness: who serves gets the core when it wakes up, and 68 times the share while both want it


def tree(session_dir: str) -> list[psutil.Process]:
    """This process's descendants that belong to the Ray session with that directory."""
    roots = [child for child in psutil.Process().children() if session_dir in _command(child)]
    return roots + [process for root in roots for process in _descendants(root)]


def wait_gone(processes: list[psutil.Process]) -> None:
    """Wait until all have ended; kill those that have not after ``GRACE_S``."""
    _, alive = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in alive:
        log.warning("process %d of the Ray session did not end by itself: killed", process.pid)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=GRACE_S)


def end_orphans(marker: str) -> None:
    """Kill processes with ``marker`` in their command line whose Ray session has ended without them."""
    for process in psutil.process_iter():
        if marker not in _command(process):
            continue
        try:
            parent = process.parent()
            if parent is None or not _command(parent).startswith(RAY_TITLE):
                log.warning("process %d outlived its Ray session: killed", process.pid)
                process.kill()
                process.wait(GRACE_S)
        except psutil.Error:
            continue  # it has ended meanwhile, or is another user's


def give_way() -> None:
    """The lowest priority for this thread and all it starts, for good; where only processes have one, nothing."""
    if sys.platform == "linux":
        os.nice(LOWEST)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found
