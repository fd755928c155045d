"""Where plain classes become named Ray actors: spawn, find, call, end.

A hosted service is an ordinary asyncio class with ``start``, ``stop``, ``gauges`` and ``info``. Its actor process
runs it on an event loop of its own thread, from construction on, so that Ray brings a killed one back without anyone
asking, and once more where that start fails; its gauges go to ``ray.util.metrics``. The dashboard shows the actor's
name (``edge:plant-1``) and the title of its class (``EdgeSite``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
import uvloop

from cluster.memory import settle
from cluster.metrics import GaugeExporter
from cluster.session import NAMESPACE
from policies.errors import BadConfig, NetGPTError

log = logging.getLogger(__name__)

CALLS_AT_ONCE = 8  # status, gauges and a slow start side by side; more calls wait in the actor's queue
MAX_RESTARTS = 20  # a service that died this often has a fault that a restart does not mend
STOP_S = 20.0  # a stop drains requests; what takes longer is killed
METRICS_S = 2.0
RETRY_S = 1.0  # before a restarted process that could not start is ended: a port may have to fall free


class Service(Protocol):
    """What an actor hosts. Everything runs on the actor's event loop."""

    async def start(self) -> None:
        """Do the heavy work and listen; fails loudly."""
        ...

    async def stop(self) -> None:
        """Free every port and file; called once, also after a failed start."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """Its figures by name."""
        ...

    def info(self) -> dict[str, Any]:
        """Where it listens and what it runs."""
        ...


@dataclass(frozen=True, slots=True)
class Spec:
    """An actor to be: its name and class title in the dashboard, what it needs and how to make its service.

    ``resource`` pins it to nodes that offer that custom resource, where any node does. ``make`` is called in the
    actor's process.
    """

    name: str
    title: str
    make: Callable[[], Service]
    cpus: float = 0.1
    resource: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Placed:
    """A running (or restarting) actor, as its callers see it."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self.handle = name, handle

    def ready(self, timeout_s: float) -> dict[str, Any]:
        """Wait until the service has started; its ``info``.

        Raises:
            NetGPTError: what its start raised, or that it did not start in time.
        """
        info: dict[str, Any] = self._get(self.handle.ready.remote(), timeout_s)
        return info

    def call(self, method: str, *arguments: Any, timeout_s: float = 30.0) -> Any:
        """Call a method of the service, plain or async, on its event loop."""
        return self._get(self.handle.call.remote(method, *arguments), timeout_s)

    def end(self) -> None:
        """Stop the service in good order, then end the actor for good; never raises."""
        try:
            ray.get(self.handle.stop.remote(), timeout=STOP_S)
        except (ray.exceptions.RayError, NetGPTError) as why:
            log.warning("%s did not stop in good order: %s", self.name, why)
        ray.kill(self.handle, no_restart=True)

    def _get(self, reference: Any, timeout_s: float) -> Any:
        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise NetGPTError(f"{self.name} did not answer within {timeout_s:.0f} s") from None
        except ray.exceptions.RayTaskError as why:
            raise why.cause from None
        except ray.exceptions.RayActorError as why:
            raise NetGPTError(f"{self.name} is not running: {_first_line(why)}") from None


def spawn(spec: Spec) -> Placed:
    """Start the actor; returns at once (see ``Placed.ready``).

    Raises:
        BadConfig: an actor of that name already runs on this cluster.
    """
    if find(spec.name) is not None:
        raise BadConfig(f"{spec.name} already runs on this Ray cluster. Fix: stop it, or give site.name another name")
    options: dict[str, Any] = {
        "name": spec.name,
        "namespace": NAMESPACE,
        "num_cpus": spec.cpus,
        "max_restarts": MAX_RESTARTS,
        "max_concurrency": CALLS_AT_ONCE,
    }
    if spec.resource and _offered(spec.resource):
        options["resources"] = {spec.resource: 0.01}
    elif spec.resource:
        log.warning("no node offers the resource %s: %s is placed anywhere", spec.resource, spec.name)
    titled = type(spec.title, (_Host,), {})
    return Placed(spec.name, ray.remote(titled).options(**options).remote(spec.make, dict(spec.tags)))


def find(name: str) -> Placed | None:
    """The actor of that name, if it runs on this cluster."""
    try:
        return Placed(name, ray.get_actor(name, namespace=NAMESPACE))
    except ValueError:
        return None


class _Host:
    """The actor: a service on an event loop in a thread of its own."""

    def __init__(self, make: Callable[[], Service], tags: dict[str, str]) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="service", daemon=True).start()
        self._service: Service | None = None
        self._metrics: GaugeExporter | None = None
        self._started = self._submit(self._start(make, tags))
        if ray.get_runtime_context().was_current_actor_reconstructed:  # the first start's failure is its caller's
            self._started.add_done_callback(_once_more)

    def ready(self) -> dict[str, Any]:
        info: dict[str, Any] = self._started.result()
        return info

    def call(self, method: str, *arguments: Any) -> Any:
        self._started.result()
        return self._submit(self._call(method, arguments)).result()

    def stop(self) -> None:
        self._submit(self._stop()).result()

    async def _start(self, make: Callable[[], Service], tags: dict[str, str]) -> dict[str, Any]:
        self._service = make()
        await self._service.start()
        settle()
        self._metrics = GaugeExporter(self._service.gauges, tags, METRICS_S)
        self._metrics.start()
        return self._service.info()

    async def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        result = getattr(self._service, method)(*arguments)
        return await result if asyncio.iscoroutine(result) else result

    async def _stop(self) -> None:
        if self._metrics is not None:
            await self._metrics.stop()
        if self._service is not None:
            service, self._service = self._service, None
            await service.stop()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _once_more(started: Future[Any]) -> None:
    """End this process if the service did not start, so that Ray starts another."""
    if why := started.exception():
        log.error("the service did not come back, its process is started again: %s", why)
        time.sleep(RETRY_S)
        os._exit(1)


def _offered(resource: str) -> bool:
    return resource in ray.cluster_resources()


def _first_line(why: Exception) -> str:
    return next((line.strip() for line in str(why).splitlines() if line.strip()), type(why).__name__)
