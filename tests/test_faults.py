"""Faults around one site in one process: a cloud that refuses, hangs or breaks off, clocks that jump, left-overs.

Processes that are killed, links and full disks are in ``test_faults_killed``.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from edge_fakes import MOVE, NORTH, SNAPSHOT, SOUTH, WEST, FakeEngine, FakeLink, FixedRule, ask, until
from test_http import listening
from test_loop import MINUTE_S, Plant
from test_site import REMOTE, Endpoint, routed, running, site_config

from actors.edge_node import EdgeNode, NodeOptions
from actors.log_record import from_table
from actors.offload_log import OffloadLog, read_log
from actors.scorer import Scorer
from actors.site_rules import Scorers, SiteRules
from actors.swap import Weights
from cluster.processes import end_orphans
from cluster.services import RouterService
from orchestrator.client import AsyncNetGPT
from policies.calibration import Calibrator
from policies.tariff import build_tariff
from policies.types import Prices

ATTEMPTS, FAILURES = 2, 3  # tries of one call, and failed calls after which the circuit opens
TIMEOUT_S, OPEN_S = 0.6, 2.0
DAY_S = 86_400.0


class Cloud(Endpoint):
    """An endpoint that does ``fault``: a status to answer with, ``silent``, ``torn``, or None for none."""

    def __init__(self, fault: int | str | None) -> None:
        super().__init__(SOUTH)
        self.fault = fault

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.fault is None:
            return await super().__call__(scope, receive, send)
        self.asked.append({})
        if self.fault == "silent":
            await asyncio.sleep(10 * TIMEOUT_S)
        status = self.fault if isinstance(self.fault, int) else 200
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        if self.fault == "torn":
            raise ConnectionAbortedError  # the server closes the connection in the middle of the body
        await send({"type": "http.response.body", "body": b" " * 99})
        return None


@dataclass
class Faulty:
    """A site whose cloud has a fault: every request is for the cloud, and the log is on disk."""

    client: AsyncNetGPT
    cloud: Cloud
    log_dir: Path

    async def ask(self) -> Any:
        return await self.client.ask("move the slice", [MOVE])


@asynccontextmanager
async def faulty(tmp_path: Path, fault: int | str, draft: str = NORTH) -> AsyncIterator[Faulty]:
    cloud = Cloud(fault)
    async with listening(Endpoint(draft)) as edge_url, listening(cloud) as cloud_url:
        config = site_config(tmp_path, edge_url)
        call = {"timeout_s": TIMEOUT_S, "attempts": ATTEMPTS, "backoff_s": 0.01}
        call |= {"breaker_failures": FAILURES, "breaker_open_s": OPEN_S}
        options = config.cloud.model_copy(update={"call": config.cloud.call.model_copy(update=call)})
        policy = config.policy.model_copy(update={"value": 1.0})
        config = config.model_copy(update={"cloud": options, "policy": policy})
        async with (
            routed(config) as (_, router),
            running(config, REMOTE, cloud_url, router) as site,
            AsyncNetGPT(site.info()["url"], max_retries=0) as client,
        ):
            await until(lambda: site.gauges()["link_up"] == 1.0)
            yield Faulty(client, cloud, config.log_dir)


async def found_again(site: Faulty) -> Any:
    """The first answer of the cloud, once the circuit lets a call through."""
    for _ in range(100):
        if not (answer := await site.ask()).degraded:
            return answer
        await asyncio.sleep(OPEN_S / 20)
    raise AssertionError("the cloud is never asked again")


@pytest.mark.parametrize("fault", [429, 500, 503, "silent", "torn"])
async def test_a_cloud_that_fails_is_tried_so_often_then_left_alone_and_found_again(
    tmp_path: Path, fault: int | str
) -> None:
    async with faulty(tmp_path, fault) as site:
        answers = [await site.ask() for _ in range(6)]
        assert {(a.degraded, a.info.reason, a.tool_calls[0].arguments["to"]) for a in answers} == {
            (True, "cloud_failed", "north")
        }
        assert FAILURES <= len(site.cloud.asked) <= FAILURES * ATTEMPTS, "the circuit is open by then"
        began = time.perf_counter()
        assert (await site.ask()).degraded
        assert time.perf_counter() - began < TIMEOUT_S / 2, "an open circuit is not waited for"
        site.cloud.fault = None
        answer = await found_again(site)
        assert (answer.route, answer.tool_calls[0].arguments) == ("cloud", {"to": "south"})
    records = from_table(read_log(site.log_dir))
    assert [record.degraded for record in records] == [True] * (len(records) - 1) + [False]
    assert all(record.cloud_error for record in records[:-1]) and len(records) >= 8


async def test_without_a_valid_draft_a_cloud_that_fails_is_503_with_retry_after_and_not_logged(tmp_path: Path) -> None:
    async with faulty(tmp_path, 503, draft=WEST) as site:
        with pytest.raises(openai.InternalServerError) as refused:
            await site.ask()
    assert refused.value.status_code == 503 and int(refused.value.response.headers["retry-after"]) > 0
    assert read_log(site.log_dir).num_rows == 0


async def test_a_wall_clock_that_jumps_changes_no_order_no_duration_and_no_record(tmp_path: Path) -> None:
    times = [1.7e9, 1.7e9 - 10 * DAY_S, 0.0, 4e9, 1.7e9]
    clock: Iterator[float] = iter(times)
    log = OffloadLog(tmp_path, "a")
    node = EdgeNode(
        engine=FakeEngine(),
        weights=Weights("edge-0001-aaaaaaaa", Path("/models/first")),
        scorers=Scorers("edge-0001-aaaaaaaa", Scorer(Calibrator.guess())),
        cloud=None,
        rules=SiteRules(FixedRule(0.5), SNAPSHOT),
        link=FakeLink(),
        log=log,
        verify=lambda path, sha256: None,
        options=NodeOptions(audit_rate=0.0),
        wall=lambda: next(clock),
    )
    for number in range(len(times)):
        await node.answer(ask(request_id=f"r{number}"))
    await asyncio.to_thread(log.close)
    records = from_table(read_log(tmp_path))
    assert [(r.seq, r.request_id, r.time_us) for r in records] == [
        (n, f"r{n}", round(1e6 * at)) for n, at in enumerate(times)
    ]
    assert all(r.total_ms >= 0 and r.draft_ms >= 0 and r.cloud_ms >= 0 for r in records)
    log = OffloadLog(tmp_path, "a")
    assert log.append(replace(records[0], time_us=1)) == len(times), "numbers go on where they were"
    await asyncio.to_thread(log.close)


def test_a_clock_that_is_set_back_delays_no_training_round(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.now_s -= 10 * DAY_S
    plant.serve(400)
    plant.turn()
    assert len(plant.store.names()) == 1, "the pause begins anew"
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert plant.releases.state.canary, "and no longer than from there"


async def test_prices_follow_a_clock_that_jumps_either_way() -> None:
    day, night = Prices(request_usd=0.5), Prices(request_usd=0.1)
    spans = (("06:00", "22:00", day), ("22:00", "06:00", night))
    periods = [{"start": start, "end": end, "prices": {"request_usd": p.request_usd}} for start, end, p in spans]
    noon_s = 12 * 3600.0 - 0.02  # just before a full minute, at which the router looks
    now = [noon_s]
    service = RouterService(
        SNAPSHOT, "127.0.0.1", 0, build_tariff({"zone": "UTC", "periods": periods}), wall=lambda: now[0]
    )
    await service.start()
    try:
        for hours, prices in ((0, day), (12, night), (120, day), (-12, night), (-3, day)):
            now[0] = noon_s + 3600.0 * hours + (0.0 if hours > 0 else 10 * DAY_S)
            await until(partial(sends, service, prices))
    finally:
        await service.stop()


def sends(service: RouterService, prices: Prices) -> bool:
    return service._router.snapshot.prices == prices


def test_what_outlived_its_ray_session_is_ended_and_what_has_one_is_not(tmp_path: Path) -> None:
    start, home = tmp_path / "start.sh", tmp_path / "home"
    start.write_text(f'{sys.executable} -c "import time; time.sleep(60)" {home}/haproxy.cfg >/dev/null & echo $!')
    orphan = subprocess.run(["bash", start], stdout=subprocess.PIPE, check=True, timeout=10).stdout
    titled = ["bash", "-c", f"exec -a ray::HAProxyManager bash -c '. {start}; wait'"]
    with subprocess.Popen(titled, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        end_orphans(str(home))
        assert not runs(int(orphan)) and runs(child.pid)
        child.kill()


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
