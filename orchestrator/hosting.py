"""Hold a ``System`` for as long as some work lasts, in the foreground of a terminal.

``hold`` refuses a second system on the same var directory, starts the system, keeps ``var/run.json`` fresh from a
thread beside the work (``netgpt status`` and ``netgpt ask`` read it) and takes everything down at the end, also when
SIGINT or SIGTERM is that end.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from orchestrator import run_file
from orchestrator.config import Config
from policies.errors import NetGPTError

log = logging.getLogger(__name__)

BEAT_S = 2.0  # how old the figures of netgpt status may be
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Progress = Callable[[str, str], None]


class Running(Protocol):
    """What is needed of a ``System`` to hold it."""

    def start(self) -> Any:
        """Bring everything up; the URLs."""
        ...

    def stop(self) -> None:
        """Take everything down."""
        ...

    def gauges(self) -> dict[str, float]:
        """Every figure by name."""
        ...

    def site_info(self) -> dict[str, Any]:
        """What the edge site runs."""
        ...


Build = Callable[[Config, Progress], Running]


def hold(
    config: Config, progress: Progress, work: Callable[[Any, Any], None], ending: Callable[[], None], build: Build
) -> None:
    """Start a system, do ``work(system, urls)``, stop it; a signal ends the work early, and quietly.

    Args:
        progress: told about every stage of the start.
        ending: called before anything is taken down.
        build: makes the system; ``real`` makes a ``System``.

    Raises:
        NetGPTError: it could not be started, or the work failed; nothing is left behind.
    """
    refuse_second(config)
    system = build(config, progress)
    with _interruptible():
        try:
            urls = system.start()
            _interrupt_on_signals()  # again: Ray puts a handler of its own in SIGTERM's place
            with _beating(config, urls, system):
                work(system, urls)
        except KeyboardInterrupt:
            log.info("interrupted")
        finally:
            _ignore_signals()  # a second Ctrl-C would cut the stopping short and leave processes behind
            ending()
            system.stop()


def real(config: Config, progress: Progress) -> Running:
    """A ``System``."""
    from orchestrator.system import System  # noqa: PLC0415  # netgpt status needs no Ray

    return System(config, progress)


def refuse_second(config: Config) -> None:
    """Raises ``NetGPTError`` where a system already runs with this var directory."""
    try:
        record = run_file.read(config.run_file)
    except NetGPTError:
        return
    raise NetGPTError(
        f"a system already runs with this var directory ({record['endpoint']}, process {record['pid']}). "
        "Fix: stop it, or set var to another directory"
    )


def sleep_forever() -> None:
    """Work that only a signal ends."""
    while True:
        time.sleep(BEAT_S)


@contextmanager
def _beating(config: Config, urls: Any, system: Running) -> Iterator[None]:
    """Keep the run file fresh while the block runs."""
    over, started = threading.Event(), time.time()

    def beat() -> None:
        while True:
            try:
                run_file.write(config.run_file, _record(config, urls, system, started))
            except OSError as why:  # a full disk must not end what serves
                log.warning("%s: %s", config.run_file, why)
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, name="run-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        run_file.remove(config.run_file)


def _record(config: Config, urls: Any, system: Running, started: float) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": round(started),
        "endpoint": urls.endpoint,
        "model": config.site.served_model,
        "cloud": urls.cloud,
        "cloud_model": urls.cloud_model,
        "router": urls.router,
        "dashboard": urls.dashboard,
        "token": urls.token,
        "site": _patiently(system.site_info),
        "gauges": _patiently(system.gauges),
    }


def _patiently(figures: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part that restarts has no figures for a moment; the others' are still worth showing."""
    try:
        return figures()
    except NetGPTError:
        return {}


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM interrupts like Ctrl-C does, for the time being."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _interrupt_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_on_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
