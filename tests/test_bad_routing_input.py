"""A hostile user's input to routing, before any request: snapshots, reports, policy files, prices.

Each is refused with one sentence that names the field and the fix, or answered with a stated conservative default. What
a bad log or setting does is in ``..._logs`` and ``..._settings``. Covered elsewhere: wrong keys and types of a policy
file (``test_policy_file``), states outside the range fitted on (``test_funcdyn``, ``test_policynet``: clamped, named),
hours with none or two prices and clocks that change (``test_tariff``), figures in link reports (``test_telemetry``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from test_funcdyn import POLICY
from test_policynet import NET

from actors.link_probe import LinkMonitor
from actors.router import Router
from actors.site_rules import SiteRules
from cluster.telemetry import convert
from cluster.telemetry import telemetry_pb2 as pb
from cluster.telemetry.client import TelemetryClient
from cluster.telemetry.telemetry_pb2_grpc import TelemetryServicer, add_TelemetryServicer_to_server
from orchestrator.config import load_config
from orchestrator.serving import check_policy
from policies.control import LinkReport, Snapshot, Swap
from policies.errors import BadConfig, BadRequest, Unreachable
from policies.link import UNMEASURED
from policies.policy_file import dumps, load_policy, save
from policies.tariff import Period, Tariff, build_tariff
from policies.threshold import OptimalThreshold, ThresholdPolicy
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

ROOT = Path(__file__).parent.parent
DEFAULT = Snapshot(0, 30.0, Prices(request_usd=0.001), Objective(0.02, 0.002, 0.97), CloudSpeed(), 0.4)
SNAPSHOT = replace(DEFAULT, seq=1, threshold_floor=0.1)
WORK = CloudWork(1000, 500, 200, 20)

SENSELESS: list[tuple[str, dict[str, Any]]] = [
    ("ttl_s", {"ttl_s": math.nan}),  # would never expire
    ("ttl_s", {"ttl_s": math.inf}),
    ("ttl_s", {"ttl_s": 0.0}),
    ("ttl_s", {"ttl_s": -1.0}),
    ("threshold_floor", {"threshold_floor": math.nan}),
    ("threshold_floor", {"threshold_floor": 1.5}),
    ("threshold_floor", {"threshold_floor": -0.1}),
    ("prices.request_usd", {"prices": Prices(math.nan)}),
    ("prices.output_usd_per_mtok", {"prices": Prices(output_usd_per_mtok=-1.0)}),
    ("prices.input_usd_per_mtok", {"prices": Prices(input_usd_per_mtok=1e308)}),
    ("speed.round_trips", {"speed": CloudSpeed(math.inf)}),
    ("speed.ttft_s", {"speed": CloudSpeed(1.0, -1.0)}),
    ("objective.value_usd", {"objective": Objective(0.0, 0.002, 0.97)}),
    ("objective.value_usd", {"objective": Objective(math.nan, 0.002, 0.97)}),
    ("objective.second_usd", {"objective": Objective(0.02, -0.1, 0.97)}),
    ("objective.cloud_accuracy", {"objective": Objective(0.02, 0.002, 97.0)}),
    ("objective.cloud_accuracy", {"objective": Objective(0.02, 0.002, math.nan)}),
]


def netgpt(*arguments: str) -> str:
    """The one sentence on stderr of a command that fails."""
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("netgpt: "), done.stderr
    return lines[0]


def message(snapshot: Snapshot, **wrong: Any) -> pb.Directive:
    """A snapshot as a router could send it that checks nothing."""
    sent = convert.directive_to_message(snapshot)
    for owner, record in wrong.items():
        if isinstance(record, float):
            setattr(sent.snapshot, owner, record)
            continue
        for name in record.__slots__:
            setattr(getattr(sent.snapshot, owner), name, getattr(record, name))
    return sent


def rules(clock: Callable[[], float]) -> SiteRules:
    class Closed:
        kind = "optimal"

        def __call__(self, snapshot: Snapshot) -> ThresholdPolicy:
            return OptimalThreshold(snapshot.objective, snapshot.speed, snapshot.threshold_floor)

    return SiteRules(Closed(), DEFAULT, clock)


@pytest.mark.parametrize(("field", "wrong"), SENSELESS)
def test_no_snapshot_can_hold_what_no_site_may_decide_with(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must "):
        replace(SNAPSHOT, **wrong)
    with pytest.raises(BadRequest, match=rf"^snapshot 1: {field} must ") as refused:
        convert.directive_from_message(message(SNAPSHOT, **wrong))
    assert refused.value.field == field


@pytest.mark.parametrize("part", ["prices", "objective", "speed"])
def test_a_snapshot_with_a_part_left_out_is_refused_and_not_read_as_zeros(part: str) -> None:
    sent = convert.directive_to_message(SNAPSHOT)
    sent.snapshot.ClearField(part)
    with pytest.raises(BadRequest, match=f"snapshot 1: {part} is missing"):
        convert.directive_from_message(sent)


class HostileRouter(TelemetryServicer):
    """Sends what makes no sense before what does, and echoes no probe."""

    async def Watch(self, request: object, context: object) -> AsyncIterator[pb.Directive]:  # noqa: N802
        yield message(SNAPSHOT, prices=Prices(math.nan))
        yield pb.Directive(snapshot=pb.Snapshot(seq=1, ttl_s=30.0))
        yield convert.directive_to_message(replace(SNAPSHOT, seq=2))

    async def Probe(self, request: object, context: object) -> pb.ProbeReply:  # noqa: N802
        return pb.ProbeReply(padding=b"")


@pytest.fixture
async def client() -> AsyncIterator[TelemetryClient]:
    """A site of a hostile router, over real gRPC."""
    server = aio.server()
    add_TelemetryServicer_to_server(HostileRouter(), server)
    client = TelemetryClient(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", "here")
    await server.start()
    await client.start()
    yield client
    await client.stop()
    await server.stop(0)


async def test_a_site_passes_a_senseless_snapshot_over_and_goes_on_listening(
    client: TelemetryClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert await anext(client.watch()) == replace(SNAPSHOT, seq=2)
    assert client.gauges()["telemetry_refused"] == 2
    assert "snapshot 1: prices.request_usd must be" in caplog.text and "prices is missing" in caplog.text


async def test_a_probe_that_is_answered_with_less_than_it_asked_for_makes_no_link_fast(
    client: TelemetryClient,
) -> None:
    with pytest.raises(Unreachable, match="a probe for 30000 bytes got 0"):
        await client.probe(0, 30_000)


@pytest.mark.parametrize(("field", "wrong"), [case for case in SENSELESS if case[0] != "ttl_s"])
def test_a_router_never_takes_over_what_it_could_not_send(field: str, wrong: dict[str, Any]) -> None:
    router = Router(SNAPSHOT)
    setters: dict[str, Callable[[Any], None]] = {
        "prices": router.set_prices,
        "objective": router.set_objective,
        "speed": router.set_speed,
        "threshold_floor": router.set_threshold_floor,
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{field} must "):
            setters[name](value)
    assert router.snapshot is SNAPSHOT


async def test_a_router_without_a_report_of_a_site_still_serves_it() -> None:
    router = Router(SNAPSHOT)
    router.publish_swap(Swap("edge-2", "/x", "0"))
    assert router.sites == {} and router.gauges()["router_sites"] == 0
    assert await anext(aiter(router.subscribe("never seen"))) == SNAPSHOT
    assert router.gauges()["router_rtt_p95_ms"] == 0.0


async def test_a_snapshot_that_hardly_lives_floods_no_stream() -> None:
    router = Router(replace(SNAPSHOT, ttl_s=1e-9))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            async for _ in router.subscribe("here"):
                pass
    assert 1 <= router.gauges()["router_snapshots_sent"] <= 11


def test_a_site_without_a_snapshot_decides_by_its_own_and_so_it_does_when_the_last_has_expired() -> None:
    now = [0.0]
    decided = rules(lambda: now[0])
    assert decided.current()[0] is DEFAULT
    decided.apply(SNAPSHOT)
    assert decided.current()[0] is SNAPSHOT
    now[0] = SNAPSHOT.ttl_s + 0.1
    snapshot, policy = decided.current()
    assert snapshot is DEFAULT
    dead = RoutingState(LinkState(1e6, 0.0, 0.0), snapshot.prices)
    assert policy.threshold(dead, WORK) == DEFAULT.threshold_floor


async def test_a_link_that_was_never_measured_is_a_middling_one() -> None:
    async def never(up_bytes: int, down_bytes: int) -> float:
        raise Unreachable("no router")

    monitor = LinkMonitor(never)
    assert monitor.state() == UNMEASURED
    for _ in range(3):
        await monitor.measure()
    assert not monitor.state().up


def test_a_report_that_says_nothing_is_a_link_that_is_down() -> None:
    assert not convert.report_from_message(pb.LinkReport(site="here")).link.up
    with pytest.raises(BadRequest, match="down_bps is nan"):
        convert.report_from_message(pb.LinkReport(site="here", down_bps=math.nan))
    good = convert.report_to_message(LinkReport("here", 1, UNMEASURED))
    good.rtt_ms = -math.inf
    with pytest.raises(BadRequest, match="rtt_ms is -inf, must be finite and at least 0"):
        convert.report_from_message(good)


def test_a_policy_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    text, path = dumps(NET, "edge-1", {"requests": 7}), tmp_path / "policy.json"
    for end in range(0, len(text) - 2, max(1, len(text) // 97)):
        path.write_text(text[:end])
        with pytest.raises(BadConfig, match=r"policy\.json: not a policy file: .*Fix: write it anew"):
            load_policy(path, "edge-1")


def test_a_policy_file_of_numbers_that_would_overflow_is_refused_and_not_read_as_the_floor(tmp_path: Path) -> None:
    path, data = tmp_path / "policy.json", json.loads(dumps(NET, "edge-1", {}))
    data["parameters"]["first"][0][0] = 1e308
    path.write_text(json.dumps(data))
    with pytest.raises(BadConfig, match=r"parameters\.first: must be at most 1e\+30 in size, got 1e\+308\. Fix"):
        load_policy(path, "edge-1")


@pytest.mark.parametrize("old", [0, 1, 3, "2", None])
def test_a_policy_file_of_another_format_or_of_other_scores_is_refused(old: object, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({**json.loads(dumps(POLICY, "edge-1", {})), "format": old}))
    with pytest.raises(BadConfig, match=r"policy\.json: format: this program reads .*Fix: write it anew"):
        load_policy(path, "edge-1")
    save(path, POLICY, "edge-1", {})
    with pytest.raises(BadConfig, match="score_version: fitted on the scores of 'edge-1', but 'edge-2' is scoring"):
        load_policy(path, "edge-2")


def test_a_policy_file_that_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/proc/self/mem"), tmp_path / ("a" * 300)):
        with pytest.raises(BadConfig, match=r"the policy cannot be read \(.*\)\. Fix: write it anew"):
            load_policy(path, None)
    for path in (tmp_path, Path(), Path("/proc/x/policy.json"), tmp_path / ("a" * 300)):
        with pytest.raises(BadConfig, match=r"the policy cannot be written \(.*\)\. Fix: name another file"):
            save(path, POLICY, "edge-1", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("written", "says"), [("{", "not a policy file"), ("funcdyn", "'policynet' needs the file")])
def test_serving_refuses_a_useless_policy_file_before_anything_is_started(
    tmp_path: Path, written: str, says: str
) -> None:
    policy, config = tmp_path / "policy.json", tmp_path / "site.yaml"
    policy.write_text(dumps(POLICY, "edge-1", {}) if written == "funcdyn" else written)
    config.write_text(f"var: {tmp_path}/var\npolicy: {{kind: policynet, file: {policy}}}\n")
    assert says in netgpt("serve", "-c", str(config))
    assert not (tmp_path / "var").exists()
    policy.write_text(dumps(NET, "edge-1", {}))
    check_policy(load_config(config))


def test_prices_that_are_none_are_refused_in_a_tariff_whatever_made_them() -> None:
    for wrong in (math.nan, math.inf, -1.0, 1e308, 10**400):
        with pytest.raises(ValueError, match=r"request_usd must be a finite number >= 0 and <= 1e\+09"):
            Tariff("UTC", (Period("00:00", "24:00", Prices(request_usd=wrong)),))
        period = {"start": "00:00", "end": "24:00", "prices": {"request_usd": wrong}}
        with pytest.raises(ValueError, match=r"tariff\.periods\[0\]: prices\.request_usd must be"):
            build_tariff({"zone": "UTC", "periods": [period]})
