"""The whole system, wired: Ray, the cloud, the router, the link between, the edge site, and the learner's round.

``System(config).start()`` brings the parts up in stages and says so; ``stop`` takes them down in reverse, whatever was
reached. The wiring is the same on a local session and on an existing cluster. Nothing here is on a request's path: the
edge site decides and answers by itself, this only places parts and tells them about each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from actors.model_store import ModelStore, ModelVersion
from actors.swap import SwapReport, Weights
from cluster import cloud_app, placement, session
from cluster.link_emulator import LinkSpec
from cluster.metrics import AnswerMetrics
from cluster.services import LinkService, RouterService
from orchestrator.cloud_leg import cloud_leg
from orchestrator.config import Config, resolve_model
from orchestrator.fleet import SiteFleet
from orchestrator.learner import RoundReport
from orchestrator.loop import Loop, Parts, ticking
from orchestrator.releases import Releases
from orchestrator.rounds import Rounds
from orchestrator.rules import default_snapshot
from orchestrator.second_opinion import asking
from orchestrator.site import EdgeSite
from orchestrator.trust import telemetry_trust
from orchestrator.versions import first_version, live_weights
from policies.errors import NetGPTError
from policies.types import Objective, Prices

log = logging.getLogger(__name__)

START_S = 180.0  # a service that has not started by then never will; models load in seconds
EDGE_CPUS = 0.5
ROUTER = "router"
TLS_PORT, PLAIN_PORT = 443, 80

Progress = Callable[[str, str], None]
"""Called with a stage (``ray``, ``cloud``, ``router``, ``link``, ``edge``) and a line about it."""


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where the edge finds the router (host:port) and the cloud (URL up to /v1)."""

    router: str
    cloud: str


@dataclass(frozen=True, slots=True)
class Urls:
    """Where a running system is; ``cloud_model`` is the cloud's own name of its model.

    ``token`` opens the dashboard's login page.
    """

    endpoint: str
    cloud: str
    cloud_model: str
    router: str
    dashboard: str | None
    token: str | None


class System:
    """One edge site, its router, its link and its cloud.

    Args:
        config: everything it is made of.
        progress: told about every stage; called from the thread that calls ``start``.
    """

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        self.config = config
        self._progress = progress or _silent
        self._session: session.Session | None = None
        self._cloud: cloud_app.CloudApp | None = None
        self._placed: dict[str, placement.Placed] = {}  # in the order they came up
        self._urls: Urls | None = None
        self._releases: Releases | None = None
        self.rounds = Rounds(config, self.store, asking(lambda: cloud_leg(config, self.urls.cloud, self._cloud_model)))
        self._loop: Loop | None = None

    @property
    def store(self) -> ModelStore:
        """The edge model's versions."""
        return ModelStore(self.config.store_dir, self.config.store.keep)

    @property
    def urls(self) -> Urls:
        """Where everything listens; only while it runs."""
        assert self._urls is not None, "the system is not running"
        return self._urls

    def start(self) -> Urls:
        """Bring everything up; on any failure (or Ctrl-C) take down what was reached.

        Raises:
            BadConfig: a port is taken, a model is missing, Ray already runs here, ...
            EngineError: a model cannot be loaded.
        """
        try:
            self._urls = self._start()
        except BaseException:
            self.stop()
            raise
        return self._urls

    def stop(self) -> None:
        """Take everything down, edge first; safe to call twice, and at any time."""
        self._urls = None
        self.rounds.stop()
        for name in reversed(list(self._placed)):
            self._placed.pop(name).end()
        if self._cloud is not None and self._session is not None and not self._session.local:
            cloud_app.stop()
        self._cloud = None
        if self._session is not None:
            self._session.stop()
            self._session = None

    def set_link(self, spec: LinkSpec) -> None:
        """Change the emulated link now.

        Raises:
            NetGPTError: the link is not emulated.
        """
        if "link" not in self._placed:
            raise NetGPTError("link.kind is direct: there is no emulated link to change")
        self._placed["link"].call("set_link", spec)

    def set_prices(self, prices: Prices) -> None:
        """What the cloud charges from now on."""
        self._router().call("set_prices", prices)

    def learn(self) -> RoundReport:
        """One training round on the log, as a Ray Train job; see ``Rounds.learn``. The job's workers stay."""
        return self.rounds.learn()

    @property
    def releases(self) -> Releases:
        """Which versions run, and the moves between them.

        Raises:
            NetGPTError: the edge model is an endpoint, whose weights are not ours, or another system decides.
        """
        if not self.leads:
            raise NetGPTError("another system started the router and decides which version runs. Fix: ask there")
        if self._releases is None:
            raise NetGPTError("site.engine.kind is openai: the weights of a remote model cannot be changed from here")
        return self._releases

    @property
    def leads(self) -> bool:
        """Whether this system decides what the router's sites run: the one that started the router does."""
        return "router" in self._placed

    def swap(self, version: ModelVersion) -> SwapReport:
        """Make ``version`` live at every site and wait until this one runs it; its report of the swap.

        Raises:
            NetGPTError: it was rolled back, or not live in time.
        """
        return self.releases.promote(version, "it was asked for")

    def set_objective(self, objective: Objective) -> None:
        """What answers are worth from now on."""
        self._router().call("set_objective", objective)

    def gauges(self) -> dict[str, float]:
        """The figures of every part, by name."""
        found = {name: value for placed in self._placed.values() for name, value in placed.call("gauges").items()}
        return found | (self._loop.gauges() if self._loop else {})

    @contextmanager
    def improving(self) -> Iterator[None]:
        """Run rounds, canaries and roll-backs beside the block, if they are this system's to run."""
        if self._releases is None or not self.leads:
            yield
            return
        edge = self._placed["edge"]
        parts = Parts(
            self.store,
            self.config.log_dir,
            self._releases,
            self.learn,
            lambda: bool(edge.call("gauges")["drift_alarm"]),
            watch=self.rounds.personal.watch if self.rounds.personal else lambda: None,
        )
        self._loop = Loop(self.config.learner, parts)
        with ticking(self._loop):
            yield

    def site_info(self) -> dict[str, Any]:
        """What the edge site runs and where."""
        info: dict[str, Any] = self._placed["edge"].call("info")
        return info

    def _start(self) -> Urls:
        config = self.config
        self._check()
        environment = cloud_app.environment(config.cloud) if config.cloud.kind == "serve" else {}
        self._stage("ray", lambda: self._start_ray(environment))
        cloud_url = self._begin_cloud(environment)
        router = self._stage("router", self._start_router)
        upstreams = self._stage("link", lambda: self._start_link(router, cloud_url))
        edge = self._begin_edge(upstreams)
        if self._cloud is not None:
            self._cloud.wait(config.cloud.deploy_timeout_s, lambda words: self._progress("cloud", words))
            self._progress("cloud", f"ready: {self._cloud.base_url} ({self._cloud.ingress})")
        info = self._stage("edge", lambda: edge.ready(START_S))
        assert self._session is not None
        return Urls(info["url"], cloud_url, self._cloud_model, router, self._session.dashboard_url, self._session.token)

    def _router(self) -> placement.Placed:
        router = self._placed.get("router") or placement.find(ROUTER)
        if router is None:
            raise NetGPTError("no router runs on this cluster")
        return router

    def _edge(self, site: str) -> placement.Placed:
        edge = self._placed.get("edge") if site == self.config.site.name else placement.find(f"edge:{site}")
        if edge is None:
            raise NetGPTError(f"site {site} does not run on this cluster")
        return edge

    def _check(self) -> None:
        """Before anything starts: what is wrong most often is the cheapest to see."""
        config = self.config
        if config.site.engine.kind != "openai":
            resolve_model(config.site.engine.model)
        if config.cloud.kind == "serve":
            resolve_model(config.cloud.model)
        if config.ray.address is None:  # on a cluster, the ports are another machine's
            cloud_app.end_orphans()
            session.check_port("site.port", config.site.host, config.site.port)
            session.check_port("cloud.port", config.cloud.host, config.cloud.port)
            session.check_port("telemetry.port", config.telemetry.host, config.telemetry.port)

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        self._progress(name, "starting")
        begun = time.monotonic()
        result = work()
        self._progress(name, f"ready ({time.monotonic() - begun:.1f} s)")
        return result

    def _start_ray(self, environment: dict[str, str]) -> None:
        self._session = session.start(self.config.ray, {self._resource: 1.0}, environment)

    def _begin_cloud(self, environment: dict[str, str]) -> str:
        """The cloud's own URL; its app goes on deploying beside the stages that follow."""
        options = self.config.cloud
        if options.kind == "openai":
            assert options.base_url is not None, "checked by the configuration"
            return options.base_url
        self._progress("cloud", "starting")
        if self._session is not None and self._session.local:
            cloud_app.forget_earlier()
        self._cloud = cloud_app.deploy(options, resolve_model(options.model), environment)
        return self._cloud.base_url

    def _start_router(self) -> str:
        if (running := placement.find(ROUTER)) is not None:  # another site's system started it: sites share one
            info = running.ready(START_S)
            return f"{info['host']}:{info['port']}"
        options, snapshot, tariff = self.config.telemetry, default_snapshot(self.config), self.config.price_list
        port = options.port or session.free_port(options.host)
        trust = telemetry_trust(options)
        service = partial(RouterService, snapshot, options.host, port, tariff, trust)
        info = self._place("router", ROUTER, "Router", service)
        return f"{info['host']}:{info['port']}"

    def _start_link(self, router: str, cloud_url: str) -> Upstreams:
        """Where the edge finds router and cloud: at the emulator's ports, or directly."""
        if self.config.link.kind == "direct":
            return Upstreams(router, cloud_url)
        behind = {"router": _address(f"http://{router}"), "cloud": _address(cloud_url)}
        # Known ports, so that a restarted emulator listens where the edge looks for it.
        ports = {name: session.free_port() for name in behind}
        link = self.config.link.initial
        name = f"link:{self.config.site.name}"
        self._place("link", name, "LinkEmulator", lambda: LinkService(behind, link, ports), self._resource)
        return Upstreams(f"127.0.0.1:{ports['router']}", _moved(cloud_url, "127.0.0.1", ports["cloud"]))

    def _begin_edge(self, upstreams: Upstreams) -> placement.Placed:
        config, weights = self.config, self._weights()
        cloud_model = self._cloud_model  # ``make`` travels to another process: it must not take ``self`` along
        port = config.site.port or session.free_port(config.site.host)  # a restarted site listens where it did

        def make() -> EdgeSite:
            return EdgeSite(
                config,
                weights(),
                cloud_url=upstreams.cloud,
                cloud_model=cloud_model,
                router=upstreams.router,
                port=port,
                observers=[AnswerMetrics(config.site.name)],
            )

        name, tags = f"edge:{config.site.name}", {"site": config.site.name}
        spec = placement.Spec(name, "EdgeSite", make, cpus=EDGE_CPUS, resource=self._resource, tags=tags)
        self._placed["edge"] = placement.spawn(spec)
        return self._placed["edge"]

    def _weights(self) -> Callable[[], Weights]:
        """What the edge starts with, asked by each of its processes: one that was killed had long swapped."""
        engine = self.config.site.engine
        if engine.kind == "openai":
            return partial(Weights, engine.model, Path())
        version = first_version(self.store, resolve_model(engine.model))
        fleet = SiteFleet(self._router, self._edge)
        self._releases = Releases(self.store, fleet, self.config.site.name)
        self.rounds.begin(self._releases)
        self._releases.start(version.version)
        return partial(live_weights, self.store)

    def _place(
        self, part: str, name: str, title: str, make: Callable[[], placement.Service], resource: str | None = None
    ) -> dict[str, Any]:
        tags = {"site": self.config.site.name}
        self._placed[part] = placement.spawn(placement.Spec(name, title, make, resource=resource, tags=tags))
        return self._placed[part].ready(START_S)

    @property
    def _cloud_model(self) -> str:
        return self._cloud.model if self._cloud else self.config.cloud.model

    @property
    def _resource(self) -> str:
        return f"site:{self.config.site.name}"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    return parts.hostname, parts.port or (TLS_PORT if parts.scheme == "https" else PLAIN_PORT)


def _moved(url: str, host: str, port: int) -> str:
    return urlunsplit(urlsplit(url)._replace(netloc=f"{host}:{port}"))


def _silent(stage: str, words: str) -> None:
    log.info("%s: %s", stage, words)
