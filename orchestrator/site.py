"""One edge site in one process and one event loop: engine, node, log, telemetry, and its OpenAI endpoint.

``EdgeSite`` takes data; ``start`` does the heavy work and fails loudly, ``stop`` undoes whatever was reached, in
reverse, and leaves no port, thread or task behind. A plain class: ``cluster.placement`` makes it a Ray actor. Decisions
are ``actors.edge_node``'s, the surface is ``orchestrator.endpoint.app``'s; here they are put together and kept current
by the router's directives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from actors.build import build_engine, shared_engine
from actors.edge_node import EdgeNode, Observer
from actors.engine import Engine, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings, RemoteSettings
from actors.feedback_log import FeedbackLog
from actors.link_probe import LinkMonitor
from actors.model_store import verify
from actors.offload_log import OffloadLog
from actors.remote_engine import RemoteEngine
from actors.site_rules import Scorers, SiteRules
from actors.swap import SwapReport, Weights
from cluster.telemetry.client import TelemetryClient
from orchestrator.cloud_leg import api_key, cloud_leg
from orchestrator.config import Config
from orchestrator.endpoint.app import Surface, SurfaceOptions
from orchestrator.endpoint.gatekeeper import Gatekeeper
from orchestrator.endpoint.keys import KeyRing
from orchestrator.endpoint.protocol import PatientProtocol
from orchestrator.rules import PolicyBuilder, default_snapshot, limits, next_scorer, node_options, scorer
from orchestrator.site_options import SiteOptions
from orchestrator.trust import pem, telemetry_trust
from policies.control import LinkReport, Swap
from policies.errors import BadConfig

logger = logging.getLogger(__name__)

KEPT_REPORTS = 16  # swap reports kept for whoever asks; one a training round, so days of them
DRAIN_S = 5  # requests in flight when the site stops may take this long
KEEP_ALIVE_S = (
    75  # longer than clients keep an idle connection, so that they close it and no request meets a closed one
)
MAX_CONNECTIONS = 1024  # beyond it uvicorn answers 503: a flood of idle connections must not exhaust the files


class EdgeSite:
    """The site ``config.site``.

    Args:
        config: the whole configuration.
        weights: the version to start with, and its directory.
        cloud_url: the cloud's OpenAI endpoint as this site reaches it, up to and including /v1; None is edge-only.
        cloud_model: the name the cloud knows its model by.
        router: host:port of the router's telemetry, as this site reaches it.
        port: of the endpoint, instead of the configured one.
        observers: told about every answer and swap.
    """

    def __init__(
        self,
        config: Config,
        weights: Weights,
        *,
        cloud_url: str | None,
        cloud_model: str,
        router: str,
        port: int | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._config, self._weights = config, weights
        self._cloud_url, self._cloud_model, self._router = cloud_url, cloud_model, router
        self._port = config.site.port if port is None else port
        self._observers = list(observers)
        self._swaps: deque[SwapReport] = deque(maxlen=KEPT_REPORTS)
        self._swaps_over = 0
        self._stack = AsyncExitStack()
        self._ready = False

    async def start(self) -> None:
        """Load the model, connect, listen.

        Raises:
            BadConfig: the port is taken, or a key is missing from the environment.
            EngineError: the model cannot be loaded.
            LogError: the log cannot be opened.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Answer what is in flight, write what is logged, free everything; safe to call twice."""
        self._ready = False
        await self._stack.aclose()

    async def swap(self, version: str, path: Path, sha256: str) -> SwapReport:
        """Run other weights; as if the router had asked for it."""
        report = await self._node.swap(version, path, sha256)
        if report.outcome == "live":
            self._policy.live(Weights(version, path))
            self._node.rules.renew()
        self._swaps.append(report)
        self._swaps_over += 1
        return report

    def swap_report(self, version: str, after: int = 0) -> dict[str, Any] | None:
        """What became of the last swap to ``version`` (the fields of ``SwapReport``), None if it is not over.

        Args:
            after: swaps that were over before (``info``): of a version that ran before, theirs is no news.
        """
        news = list(self._swaps)[::-1][: max(self._swaps_over - after, 0)]
        return next((asdict(report) for report in news if report.version == version), None)

    def gauges(self) -> dict[str, float]:
        """Every figure of the site."""
        return {**self._node.gauges(), **self._surface.gauges(), **self._telemetry.gauges()}

    def info(self) -> dict[str, Any]:
        """Where it listens and what it runs."""
        host = self._config.site.host
        return {
            "site": self._config.site.name,
            "url": f"{'https' if self._config.site.tls_cert else 'http'}://{host}:{self._port}/v1",
            "host": host,
            "port": self._port,
            "model": self._config.site.served_model,
            "version": self._node.version,
            "swaps_over": self._swaps_over,
            "policy": f"{self._policy.kind} ({self._policy.reason})",
        }

    async def _start(self) -> None:
        config, push = self._config, self._stack.push_async_callback
        listener = self._stack.enter_context(contextlib.closing(_listener(config.site.host, self._port)))
        self._port = listener.getsockname()[1]
        engine = await _edge_engine(config.site, self._weights)
        push(engine.close)
        self._log = OffloadLog(
            config.log_dir,
            config.site.name,
            segment_records=config.log.segment_records,
            segment_bytes=config.log.segment_bytes,
            keep_bytes=config.log.keep_bytes,
            sync=config.log.sync,
        )
        push(asyncio.to_thread, self._log.close)
        await self._start_link()
        cloud = self._cloud_leg()
        if cloud is not None:
            push(cloud.close)
        self._node = self._make_node(engine, cloud)
        push(self._node.close)
        self._spawn("watch", self._watch())
        self._spawn("report", self._telemetry.report(self._report, config.telemetry.probe_interval_s))
        await self._listen(listener)
        self._ready = True
        logger.info("site %s answers at %s with %s", config.site.name, self.info()["url"], self._node.version)

    async def _start_link(self) -> None:
        options, name = self._config.telemetry, self._config.site.name
        self._telemetry = TelemetryClient(self._router, name, trust=telemetry_trust(options))
        await self._telemetry.start()
        self._stack.push_async_callback(self._telemetry.stop)
        self._link = LinkMonitor(
            self._telemetry.probe, site=name, interval_s=options.probe_interval_s, largest_bytes=options.probe_bytes
        )
        await self._link.start()
        self._stack.push_async_callback(self._link.stop)

    def _cloud_leg(self) -> Engine | None:
        if self._cloud_url is None:
            return None
        return cloud_leg(self._config, self._cloud_url, self._cloud_model)

    def _make_node(self, engine: Engine, cloud: Engine | None) -> EdgeNode:
        config = self._config
        self._policy = PolicyBuilder(config, self._weights)
        node = EdgeNode(
            engine=engine,
            weights=self._weights,
            scorers=Scorers(self._weights.version, scorer(config, self._weights.path)),
            cloud=cloud,
            rules=SiteRules(self._policy, default_snapshot(config)),
            link=self._link,
            log=self._log,
            verify=verify,
            limits=limits(config),
            load_scorer=partial(next_scorer, config),
            options=node_options(config, self._cloud_model),
        )
        node.observers.extend(self._observers)
        return node

    async def _listen(self, listener: socket.socket) -> None:
        options = self._config.site
        surface = SurfaceOptions(
            options.served_model, options.body_limit_bytes, options.max_in_flight, options.max_waiting
        )
        door = Gatekeeper(KeyRing(self._config.keys_file), options.name) if options.keys else None
        feedback = FeedbackLog(self._config.log_dir, options.name)
        self._surface = Surface(self._node, surface, lambda: self._ready, door, feedback.append)
        for name in ("tls_cert", "tls_key"):
            if (file := getattr(options, name)) is not None:
                await asyncio.to_thread(pem, f"site.{name}", file)  # a clear word, before uvicorn's
        server = HostedServer(
            uvicorn.Config(
                self._surface,
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                proxy_headers=False,
                ssl_certfile=options.tls_cert,
                ssl_keyfile=options.tls_key,
                log_config=None,
                access_log=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
        self._stack.push_async_callback(_end_server, server, serving)
        while not server.started:
            if serving.done():
                raise BadConfig(f"site: the endpoint on port {self._port} did not start: {serving.exception()}")
            await asyncio.sleep(0.005)

    async def _watch(self) -> None:
        """Follow the router's directives for as long as the site runs."""
        async for directive in self._telemetry.watch():
            if isinstance(directive, Swap):
                await self.swap(directive.version, Path(directive.path), directive.sha256)
            else:
                self._node.rules.apply(directive)

    def _report(self) -> LinkReport:
        durable = int(self._log.gauges()["log_durable_seq"])
        return self._link.report(self._node.version, max(durable, 0))  # -1, an empty log, has no place on the wire

    def _spawn(self, name: str, work: Any) -> None:
        task = asyncio.create_task(work, name=f"{name}:{self._config.site.name}")
        task.add_done_callback(_complain)
        self._stack.push_async_callback(_end_task, task)


class HostedServer(uvicorn.Server):
    """uvicorn without its signal handlers: whoever hosts the site decides when it ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _WithoutPrefill:
    """A remote model cannot be made to begin its answer; ``tool_choice`` asks it for the same."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        return await self._engine.generate(replace(prompt, prefill="") if prompt.prefill else prompt, sampling)

    async def load(self, path: Path, version: str) -> LoadReport:
        return await self._engine.load(path, version)

    async def close(self) -> None:
        await self._engine.close()


async def _edge_engine(site: SiteOptions, weights: Weights) -> Engine:
    options = site.engine
    if options.kind in ("openai", "vllm-server"):
        assert options.base_url is not None, "checked by the configuration"
        settings = RemoteSettings(api_key("site.engine.api_key_env", options.api_key_env), logprobs=True)
        if options.kind == "openai":
            return _WithoutPrefill(RemoteEngine(options.base_url, options.model, settings))
        return await shared_engine(
            options.base_url, site.name, weights.path, weights.version, settings, options.max_model_len
        )
    cache = None if options.kv_cache_mb is None else options.kv_cache_mb << 20
    settings_here = LocalSettings(options.max_model_len, options.dtype, options.threads, cache)
    return await build_engine(options.kind, weights.path, weights.version, settings_here)


def _listener(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as why:
        listener.close()
        raise BadConfig(
            f"site.port: port {port} on {host} cannot be used ({why.strerror}). Fix: stop what listens there, "
            f"or set site.port to 0 to pick a free port"
        ) from None
    return listener


async def _end_server(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await asyncio.gather(serving, return_exceptions=True)


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (why := task.exception()) is not None:
        logger.error("%s ended: %r", task.get_name(), why, exc_info=why)
