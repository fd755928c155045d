"""``netgpt serve`` and ``netgpt status``: a system in the foreground, and a look at it from outside.

``serve`` starts a ``System``, keeps ``var/run.json`` fresh and ends on SIGINT or SIGTERM; ``status`` reads that file
and asks the site's endpoint whether it is ready.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx

from orchestrator import run_file
from orchestrator.config import Config
from policies.errors import NetGPTError

BEAT_S = 2.0  # how old the figures of netgpt status may be
READY_S = 3.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Say = Callable[[str], None]


class Running(Protocol):
    """What ``serve`` needs of a ``System``."""

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


Build = Callable[[Config, Callable[[str, str], None]], Running]


def serve(config: Config, say: Say, build: Build | None = None) -> None:
    """Run a system until a signal asks it to end.

    Args:
        say: shows a line to the user.
        build: makes the system; None makes a ``System``.

    Raises:
        NetGPTError: it could not be started; nothing is left behind.
    """
    _refuse_second(config)
    system = (build or _system)(config, lambda stage, words: say(f"  {stage:<7}{words}"))
    started = time.time()
    with _interruptible():
        try:
            urls = system.start()
            _interrupt_on_signals()  # again: Ray puts a handler of its own in SIGTERM's place
            for line in _welcome(config, urls):
                say(line)
            while True:
                run_file.write(config.run_file, _record(config, urls, system, started))
                time.sleep(BEAT_S)
        except KeyboardInterrupt:
            say("stopping")
        finally:
            _ignore_signals()  # a second Ctrl-C would cut the stopping short and leave processes behind
            run_file.remove(config.run_file)
            system.stop()


def _system(config: Config, progress: Callable[[str, str], None]) -> Running:
    from orchestrator.system import System  # noqa: PLC0415  # status needs no Ray

    return System(config, progress)


def status(config: Config) -> Iterator[str]:
    """Lines about the running system.

    Raises:
        NetGPTError: none runs, or its endpoint does not answer.
    """
    record = run_file.read(config.run_file)
    gauges = record["gauges"]
    yield f"endpoint    {record['endpoint']}  ({_ready(record['endpoint'])})"
    yield f"model       {record['model']}, edge version {record['site'].get('version', '?')}"
    yield f"requests    edge {gauges.get('requests_edge', 0):.0f}, cloud {gauges.get('requests_cloud', 0):.0f}"
    yield f"last        score {gauges.get('score', 0):.3f} against threshold {gauges.get('threshold', 0):.3f}"
    yield f"link        {_link(gauges)}"
    yield f"cost        {gauges.get('cost_usd', 0):.4f} USD"
    yield f"log         {gauges.get('log_lag', 0):.0f} records not yet durable"
    yield f"cloud       {record['cloud']}"
    yield f"dashboard   {record['dashboard']}  (log in with the token {record['token']})"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["started"]))
    yield f"up since    {since} (process {record['pid']})"


def _welcome(config: Config, urls: Any) -> Iterator[str]:
    yield f"serving {config.site.served_model} at {urls.endpoint} (OpenAI-compatible)"
    yield f"  cloud      {urls.cloud}"
    yield f"  router     {urls.router} (gRPC)"
    yield f"  dashboard  {urls.dashboard} (log in with the token {urls.token})"
    yield f'  try        netgpt ask "..." --url {urls.endpoint}'
    yield "  stop       Ctrl-C"


def _record(config: Config, urls: Any, system: Running, started: float) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": round(started),
        "endpoint": urls.endpoint,
        "model": config.site.served_model,
        "cloud": urls.cloud,
        "router": urls.router,
        "dashboard": urls.dashboard,
        "token": urls.token,
        "site": _patiently(system.site_info, {}),
        "gauges": _patiently(system.gauges, {}),
    }


def _patiently(figures: Callable[[], dict[str, Any]], otherwise: dict[str, Any]) -> dict[str, Any]:
    """A part that restarts has no figures for a moment; the others' are still worth showing."""
    try:
        return figures()
    except NetGPTError:
        return otherwise


def _ready(endpoint: str) -> str:
    url = endpoint.removesuffix("/v1") + "/readyz"
    try:
        answer = httpx.get(url, timeout=READY_S)
    except httpx.HTTPError as why:
        raise NetGPTError(f"the system runs, but {url} does not answer: {why}") from None
    return "ready" if answer.is_success else f"not ready: {answer.status_code}"


def _link(gauges: dict[str, float]) -> str:
    if not gauges.get("link_up", 1.0):
        return "down"
    up, down = gauges.get("link_up_bps", 0.0) / 1e6, gauges.get("link_down_bps", 0.0) / 1e6
    return f"rtt {gauges.get('link_rtt_ms', 0):.0f} ms, up {up:.1f} Mbit/s, down {down:.1f} Mbit/s"


def _refuse_second(config: Config) -> None:
    try:
        record = run_file.read(config.run_file)
    except NetGPTError:
        return
    raise NetGPTError(
        f"a system already runs with this var directory ({record['endpoint']}, process {record['pid']}). "
        "Fix: stop it, or set var to another directory"
    )


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
