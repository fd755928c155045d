"""From configuration to what decides: prices by the hour, fitted policies and the weights they belong to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from edge_fakes import GOOD, SNAPSHOT, until

from actors.site_rules import SiteRules
from actors.swap import Weights
from cluster.services import RouterService
from orchestrator.config import default_config
from orchestrator.rules import PolicyBuilder, default_snapshot, limits, node_options
from policies.errors import BadConfig
from policies.gain import GainCurve
from policies.policy_file import save
from policies.tariff import Period, Tariff
from policies.threshold import FixedThreshold, OptimalThreshold
from policies.types import CloudSpeed, CloudWork, Prices, RoutingState

WORK = CloudWork(1000, 500, 200, 20)
CHEAP, DEAR = Prices(request_usd=0.001), Prices(request_usd=0.004)


def test_the_first_snapshot_has_the_prices_of_the_hour() -> None:
    config = default_config(
        tariff={
            "zone": "UTC",
            "periods": [{"start": "00:00", "end": "24:00", "prices": {"request_usd": 0.001}}],
        }
    )
    assert default_snapshot(config).prices == CHEAP


def test_a_fixed_threshold_never_skips_a_draft_and_others_do() -> None:
    assert not node_options(default_config(policy={"kind": "fixed"}), "cloud").drafting.before
    assert node_options(default_config(), "cloud").drafting.before


def test_limits_follow_the_configuration() -> None:
    made = limits(default_config(policy={"risk": 0.1, "cap": {"offloads_per_hour": 2}}))
    assert [made.allow(0.0) for _ in range(3)] == [True, True, False]
    assert made.floor == 1.0


def fitted(directory: Path, version: str) -> Path:
    """The file of a closed form that asks nothing of a draft, under the name of a fitted kind."""
    from policies.funcdyn import ANY_WORK, INPUTS, FuncDyn, StateInputs

    inputs = StateInputs.of([RoutingState(GOOD, CHEAP), RoutingState(replace(GOOD, rtt_ms=300.0), DEAR)], ANY_WORK)
    path = directory / "policy.json"
    save(path, FuncDyn(inputs, (0.0,) * len(INPUTS), 0.0, 0.3, 0.3), version, {})
    return path


def test_a_fitted_policy_decides_for_its_own_weights_and_the_closed_form_for_others(tmp_path: Path) -> None:
    config = default_config(policy={"kind": "funcdyn", "file": str(fitted(tmp_path, "edge-0001"))})
    builder = PolicyBuilder(config, Weights("edge-0001", tmp_path))
    rules = SiteRules(builder, SNAPSHOT)
    assert (rules.kind, rules.current()[1].threshold(RoutingState(GOOD, CHEAP), WORK)) == ("funcdyn", 0.3)
    builder.live(Weights("edge-0002", tmp_path))
    rules.renew()
    assert rules.kind == "optimal"
    assert isinstance(rules.current()[1], OptimalThreshold)


def test_a_measured_gain_moves_the_closed_form_of_its_own_weights_alone(tmp_path: Path) -> None:
    path, options = tmp_path / "policy.json", default_config().policy
    plain = OptimalThreshold(options.objective, options.speed)
    save(path, replace(plain, curve=GainCurve((0.2, 0.5), (0.9, 0.01))), "edge-0001", {})
    config = default_config(policy={"file": str(path)})
    builder = PolicyBuilder(config, Weights("edge-0001", tmp_path))
    snapshot, state = default_snapshot(config), RoutingState(GOOD, CHEAP)
    measured = builder(snapshot).threshold(state, WORK)
    builder.live(Weights("edge-0002", tmp_path))
    assert measured < 0.8 < builder(snapshot).threshold(state, WORK) == plain.threshold(state, WORK)


@pytest.mark.parametrize("kind", ["fixed", "optimal", "funcdyn"])
def test_a_floor_holds_for_every_kind_whether_it_is_the_routers_or_the_sites(tmp_path: Path, kind: str) -> None:
    file = str(fitted(tmp_path, "edge-0001")) if kind == "funcdyn" else None
    plain = {"kind": kind, "file": file, "value": 0.2}
    dead = replace(GOOD, up_bps=100.0)  # the closed form asks little here
    for floor, snapshot in ((0.0, replace(SNAPSHOT, threshold_floor=0.9)), (0.9, SNAPSHOT)):
        builder = PolicyBuilder(default_config(policy={**plain, "floor": floor}), Weights("edge-0001", tmp_path))
        assert builder(snapshot).threshold(RoutingState(dead, CHEAP), WORK) == 0.9


def test_a_policy_fitted_for_other_weights_is_refused_at_the_start(tmp_path: Path) -> None:
    config = default_config(policy={"kind": "funcdyn", "file": str(fitted(tmp_path, "edge-0001"))})
    with pytest.raises(BadConfig, match=r"score_version.*edge-0001.*edge-0007.*Fix"):
        PolicyBuilder(config, Weights("edge-0007", tmp_path))


def test_a_learnt_speed_moves_the_closed_form_and_outlives_a_snapshot() -> None:
    rules = SiteRules(PolicyBuilder(default_config(), Weights("v", Path())), SNAPSHOT)
    before = rules.current()[1].threshold(RoutingState(GOOD, CHEAP), WORK)
    rules.learn(CloudSpeed(1.0, 3.0, 0.005))
    slower = rules.current()[1].threshold(RoutingState(GOOD, CHEAP), WORK)
    rules.apply(replace(SNAPSHOT, seq=2))
    assert rules.current()[1].threshold(RoutingState(GOOD, CHEAP), WORK) == slower < before


def test_a_speed_that_hardly_changed_builds_nothing_anew() -> None:
    built: list[CloudSpeed] = []

    class Counting:
        kind = "fixed"

        def __call__(self, snapshot: object) -> FixedThreshold:
            built.append(snapshot.speed)  # type: ignore[attr-defined]
            return FixedThreshold(0.5)

    rules = SiteRules(Counting(), SNAPSHOT)
    speed = SNAPSHOT.speed
    rules.learn(replace(speed, ttft_s=speed.ttft_s * 1.01))
    rules.learn(replace(speed, ttft_s=speed.ttft_s * 2.0))
    assert len(built) == 2


async def test_prices_follow_the_tariff_while_the_router_runs() -> None:
    tariff = Tariff("UTC", (Period("00:00", "12:00", CHEAP), Period("12:00", "24:00", DEAR)))
    now = [12 * 3600.0 - 0.05]  # a moment before noon
    router = RouterService(replace(SNAPSHOT, prices=CHEAP), "127.0.0.1", 0, tariff, wall=lambda: now[0])
    await router.start()
    try:
        await asyncio.sleep(0.01)
        assert router._router.snapshot.prices == CHEAP
        now[0] = 12 * 3600.0 + 0.01
        await until(lambda: router._router.snapshot.prices == DEAR)
    finally:
        await router.stop()
