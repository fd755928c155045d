"""The Ray session: our own on this machine, or a seat on a running cluster.

``start`` prepares Ray's environment, checks what Ray would only say in a traceback (a port taken, a session already
open), and returns a ``Session`` that knows the dashboard's URL and its token. ``Session.stop`` leaves no process and
no port behind. It starts nothing on the session; that is ``placement`` and ``cloud_app``.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.options import RayOptions
from cluster.processes import tree, wait_gone
from policies.errors import BadConfig

log = logging.getLogger(__name__)

NAMESPACE = "netgpt"
KNOCK_S = 5.0
PORTS = range(20_000, 32_768)  # above those of Ray's workers, below those that Linux gives to outgoing connections


@dataclass(frozen=True, slots=True)
class Session:
    """A live Ray session.

    ``token`` opens the dashboard (its login page asks for it); ``local`` says whether ``stop`` ends Ray itself;
    ``replaced`` are this process's own variables, put back by ``stop``.
    """

    dashboard_url: str | None
    token: str | None
    address: str
    local: bool
    directory: str
    replaced: Mapping[str, str | None]

    def stop(self) -> None:
        """Leave the session; a local one ends with every process it started. Safe to call twice."""
        started = tree(self.directory) if self.local else []
        ray.shutdown()
        wait_gone(started)
        _restore(self.replaced)


def start(
    options: RayOptions, resources: Mapping[str, float] | None = None, environment: Mapping[str, str] | None = None
) -> Session:
    """Start Ray here, or join the cluster at ``options.address``.

    Args:
        resources: custom resources of this machine (``site:NAME``); a cluster's own nodes declare theirs.
        environment: variables that every process of the session starts with.

    Raises:
        BadConfig: Ray already runs in this process, a port is taken, or no cluster answers at the address.
    """
    if ray.is_initialized():
        raise BadConfig("Ray is already running in this process. Fix: stop that system first (ray.shutdown())")
    here = quiet_environment() | (dict(environment or {}) if options.address is None else {})
    replaced = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    try:
        if options.address is None:
            return _start_local(options, dict(resources or {}), replaced)
        return _join(options, options.address, dict(environment or {}), replaced)
    except BaseException:
        _restore(replaced)
        raise


def quiet_environment() -> dict[str, str]:
    """Variables Ray reads at import or hands to its children: no usage reports, no advice on stderr.

    Ray gives all its workers a niceness of 15; ours answer requests, and training lowers its own (``give_way``).
    """
    return {
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_worker_maximum_startup_concurrency": "8",  # more workers than that at once are worth a warning
    }


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now, of those that nobody else is likely to take before it is used.

    Raises:
        BadConfig: no port can be opened on ``host``, or none is free.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError as why:
                if why.errno != errno.EADDRINUSE:
                    fix = "Fix: give an address of this machine"
                    raise BadConfig(f"no port can be opened on {host!r} ({why.strerror}). {fix}") from None
            else:
                return port
    raise BadConfig(f"no free port found on {host} from {PORTS[0]} to {PORTS[-1]}")


def check_port(key: str, host: str, port: int) -> None:
    """Refuse a port that something else listens on.

    Raises:
        BadConfig: names the setting ``key``, the port and the fix.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as why:
            raise BadConfig(
                f"{key}: port {port} on {host} cannot be used ({why.strerror}). Fix: stop what listens there "
                f"(a system already running, another Ray), or set {key} to 0 to pick a free port"
            ) from None


def _start_local(options: RayOptions, resources: dict[str, float], replaced: Mapping[str, str | None]) -> Session:
    port = options.dashboard_port or free_port(options.host)
    check_port("ray.dashboard_port", options.host, port)
    # A token in the environment makes ray.init switch token authentication on. Its C++ core reads the token once per
    # process, so a second session in one process keeps the first one's.
    token = os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    context = _init(
        address="local",
        num_cpus=options.num_cpus,
        resources=resources,
        object_store_memory=options.object_store_mb << 20,
        include_dashboard=True,
        dashboard_host=options.host,
        dashboard_port=port,
        log_to_driver=options.log_to_driver,
        _temp_dir=str((options.temp_dir or Path(tempfile.gettempdir()) / "ray").absolute()),
    )
    return _session(context, token, replaced, local=True)


def _join(
    options: RayOptions, address: str, environment: dict[str, str], replaced: Mapping[str, str | None]
) -> Session:
    runtime_env = {"env_vars": environment} if environment else None
    try:
        _knock(address)
        context = _init(address=address, log_to_driver=options.log_to_driver, runtime_env=runtime_env)
    except (OSError, RuntimeError, ValueError) as why:
        raise BadConfig(
            f"ray.address: no Ray cluster could be joined at {address!r}: {str(why).splitlines()[0]}. Fix: start one "
            "(ray start --head), correct the address, or set ray.address to null to start Ray here"
        ) from None
    return _session(context, os.environ.get("RAY_AUTH_TOKEN"), replaced, local=False)


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _init(**arguments: Any) -> Any:
    return ray.init(namespace=NAMESPACE, logging_level=logging.ERROR, configure_logging=True, **arguments)


def _session(context: Any, token: str | None, replaced: Mapping[str, str | None], local: bool) -> Session:
    url = f"http://{context.dashboard_url}" if context.dashboard_url else None
    where = context.address_info
    return Session(url, token, where["address"], local, where["session_dir"], replaced)


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
