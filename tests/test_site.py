"""One whole site in one process: its endpoint, its log, its router, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from edge_fakes import MOVE, NORTH, SOUTH, until
from test_http import listening

from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import read_log
from actors.router import Router
from actors.swap import Weights
from cluster.telemetry.server import TelemetryServer
from orchestrator.client import AsyncNetGPT
from orchestrator.config import Config, default_config
from orchestrator.rules import default_snapshot
from orchestrator.site import EdgeSite
from policies.calibration import Calibrator
from policies.control import Swap
from policies.errors import BadConfig
from policies.types import Prices


def site_config(tmp_path: Path, edge_url: str | None = None, **site: Any) -> Config:
    """A site on free ports; its edge model is the endpoint ``edge_url`` or a directory given in ``engine``."""
    engine = {"kind": "openai", "model": "netgpt", "base_url": edge_url} if edge_url else site.pop("engine")
    return default_config(
        var=str(tmp_path / "var"),
        site={"port": 0, "engine": engine, "audit_rate": 0.0, **site},
        policy={"kind": "fixed", "value": 0.0},
        telemetry={"probe_interval_s": 0.05},
    )


@asynccontextmanager
async def routed(config: Config) -> AsyncIterator[tuple[Router, str]]:
    router = Router(default_snapshot(config))
    server = TelemetryServer(router)
    port = await server.start()
    try:
        yield router, f"127.0.0.1:{port}"
    finally:
        await server.stop()


@asynccontextmanager
async def running(config: Config, weights: Weights, cloud_url: str, router: str) -> AsyncIterator[EdgeSite]:
    site = EdgeSite(config, weights, cloud_url=cloud_url, cloud_model="netgpt", router=router)
    await site.start()
    try:
        yield site
    finally:
        await site.stop()


class Endpoint:
    """An OpenAI endpoint, as an ASGI app, that always says ``text`` and is sure of it."""

    def __init__(self, text: str) -> None:
        message = {"role": "assistant", "content": text}
        logprobs = {"content": [{"token": "x", "logprob": -0.001}] * 8}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        usage = {"prompt_tokens": 100, "completion_tokens": 8}
        self.answer = json.dumps({"model": "remote", "choices": [choice], "usage": usage}).encode()
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append(json.loads(body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": self.answer})


REMOTE = Weights("edge-0001-aaaaaaaa", Path("/nowhere"))


async def test_a_site_answers_logs_follows_its_router_and_leaves_nothing_behind(tmp_path: Path) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with listening(Endpoint(NORTH)) as edge_url, listening(Endpoint(SOUTH)) as cloud_url:
        config = site_config(tmp_path, edge_url)
        async with routed(config) as (router, target):
            async with running(config, REMOTE, cloud_url, target) as site:
                await until(lambda: "local" in router.sites and site.gauges()["telemetry_directives"] > 0)
                dear = Prices(request_usd=0.5)
                router.set_prices(dear)
                await until(lambda: site.gauges()["telemetry_directives"] > 1)
                async with AsyncNetGPT(site.info()["url"]) as client:
                    answer = await client.ask("move the slice", [MOVE])
                assert (answer.route, answer.tool_calls[0].arguments) == ("edge", {"to": "north"})
                assert answer.info.link.up
                port = site.info()["port"]
            [record] = read_log(config.log_dir).to_pylist()
    assert (record["site"], record["answer"], record["prices"]) == ("local", NORTH, asdict(dear))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    assert asyncio.all_tasks() == tasks
    assert [t for t in set(threading.enumerate()) - threads if not t.name.startswith(("asyncio_", "Thread-"))] == []


async def test_a_remote_edge_model_is_asked_for_a_required_call_by_its_own_means(tmp_path: Path) -> None:
    edge = Endpoint(NORTH)
    async with listening(edge) as edge_url, listening(Endpoint(SOUTH)) as cloud_url:
        config = site_config(tmp_path, edge_url)
        async with (
            routed(config) as (_, target),
            running(config, REMOTE, cloud_url, target) as site,
            AsyncNetGPT(site.info()["url"]) as client,
        ):
            answer = await client.ask("move the slice", [MOVE], tool_choice="required")
    assert answer.route == "edge"
    assert edge.asked[0]["tool_choice"] == "required"


async def test_a_site_whose_router_and_cloud_are_gone_keeps_answering(tmp_path: Path) -> None:
    async with listening(Endpoint(NORTH)) as edge_url:
        config = site_config(tmp_path, edge_url)
        async with routed(config) as (_, target):
            pass
        async with running(config, REMOTE, "http://127.0.0.1:1/v1", target) as site:
            await until(lambda: site.gauges()["link_up"] == 0.0, timeout_s=20)
            async with AsyncNetGPT(site.info()["url"]) as client:
                answer = await client.ask("move the slice", [MOVE])
    assert (answer.degraded, answer.info.reason) == (True, "link_down")


async def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = site_config(tmp_path, "http://127.0.0.1:1/v1", port=port)
        site = EdgeSite(config, REMOTE, cloud_url=None, cloud_model="cloud", router="127.0.0.1:1")
        with pytest.raises(BadConfig, match=rf"site\.port: port {port} .* Fix: .*") as refused:
            await site.start()
    assert "\n" not in str(refused.value)


async def test_a_missing_key_names_its_variable_and_frees_what_was_reached(tmp_path: Path) -> None:
    config = site_config(tmp_path, "http://127.0.0.1:1/v1")
    cloud = config.cloud.model_copy(update={"api_key_env": "NETGPT_TEST_NO_SUCH_KEY"})
    config = config.model_copy(update={"cloud": cloud})
    for _ in range(2):  # the second start finds port and log free again
        site = EdgeSite(config, REMOTE, cloud_url="http://127.0.0.1:1/v1", cloud_model="c", router="127.0.0.1:1")
        with pytest.raises(BadConfig, match="NETGPT_TEST_NO_SUCH_KEY"):
            await site.start()


def published(store: ModelStore, directory: Path, seed: int) -> ModelVersion:
    from tiny_model import tiny_model_dir

    source = tiny_model_dir(directory, seed)
    (source / "calibrator.json").write_text(replace(Calibrator.guess(), intercept=6.0).to_json())
    return store.publish(source)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own deprecations, when vLLM is first imported
async def test_a_swap_through_the_router_fails_no_request_on_real_weights(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    first, second = (published(store, tmp_path / f"m{seed}", seed) for seed in (1, 2))
    engine = {"kind": "vllm", "model": str(first.path), "kv_cache_mb": 32}
    config = site_config(tmp_path, engine=engine)
    async with listening(Endpoint("Done.")) as cloud_url, routed(config) as (router, target):
        async with (
            running(config, Weights(first.version, first.path), cloud_url, target) as site,
            AsyncNetGPT(site.info()["url"], max_retries=0) as client,
        ):
            stop = asyncio.Event()

            async def keep_asking() -> list[str]:
                versions = []
                while not stop.is_set():
                    versions.append((await client.ask("select clients", max_tokens=8)).version)
                return versions

            asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
            await asyncio.sleep(0.3)
            router.publish_swap(Swap(second.version, str(second.path), second.sha256))
            await until(lambda: site.swap_report(second.version) is not None, timeout_s=30)
            await asyncio.sleep(0.3)
            stop.set()
            answered = await asyncio.gather(*asking)
            report = site.swap_report(second.version)
            assert report is not None
            assert report["outcome"] == "live", report
            assert site.info()["version"] == second.version
            await until(lambda: router.sites["local"].version == second.version)
            forced = await client.ask("go", [MOVE], tool_choice="required", max_tokens=128)
            assert forced.tool_calls[0].name == "move_slice", "prose from both models: the grammar is the last resort"
            assert forced.degraded
        table = read_log(config.log_dir)
    for versions in answered:
        edge = [version for version in versions if version.startswith("edge-")]
        assert edge == sorted(edge), "once on the new weights, never back"
    assert {version for versions in answered for version in versions} >= {first.version, second.version}
    assert table.num_rows == sum(map(len, answered)) + 1
