"""A fitted threshold that is asked beyond what it was fitted on: a gauge and a warning, which no request pays for."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from edge_fakes import GOOD, SNAPSHOT, NodeKit, ask
from test_funcdyn import BEST, POLICY, SOME, WORST, changed

from actors.clamped import MOST_WARNINGS, Clamped
from actors.site_rules import SiteRules
from policies.control import Snapshot
from policies.funcdyn import INPUTS, FuncDyn
from policies.threshold import FixedThreshold

FAR = changed(SOME, "link.rtt_ms", 9000.0)


class Fitted:
    """The same fitted policy whatever the snapshot."""

    kind = "funcdyn"

    def __call__(self, snapshot: Snapshot) -> FuncDyn:
        return POLICY


def test_every_set_of_clamped_figures_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watch, both = Clamped(), changed(FAR, "queue_s", 50.0)
    assert [watch.count(POLICY, state) for state in (SOME, FAR, FAR, both, FAR, both)] == [0, 1, 1, 2, 1, 2]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2 and "link.rtt_ms. Fix: " in warned[0] and "link.rtt_ms, queue_s. Fix: " in warned[1]


def test_another_policy_of_the_same_kind_is_warned_of_anew(caplog: pytest.LogCaptureFixture) -> None:
    watch, other = Clamped(), replace(POLICY, inputs=replace(POLICY.inputs, high=POLICY.inputs.high))
    wider = replace(POLICY, inputs=replace(POLICY.inputs, gain=(0.0,) * len(INPUTS)))
    for policy in (POLICY, replace(POLICY, floor=0.5), other, wider):
        assert watch.count(policy, FAR) == 1
    assert len(caplog.records) == 2, "a floor, or the same range again, is no other policy"


def test_warnings_are_bounded_whatever_a_link_does(caplog: pytest.LogCaptureFixture) -> None:
    watch, names = Clamped(), [name for name in INPUTS if name not in ("link.loss", "budget_left")]
    for pattern in range(2 ** len(names)):
        state = SOME
        for place, name in enumerate(names):
            if pattern >> place & 1:
                state = changed(state, name, 1e9)
        assert watch.count(POLICY, state) == pattern.bit_count()
    assert len(caplog.records) == MOST_WARNINGS


def test_what_was_not_fitted_or_is_not_asked_clamps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watch = Clamped()
    assert watch.count(FixedThreshold(0.5), FAR) == 0
    assert watch.count(POLICY, replace(FAR, link=replace(FAR.link, up=False))) == 0
    assert [watch.count(POLICY, state) for state in (WORST, BEST)] == [0, 0]
    assert not caplog.records


async def test_a_site_says_it_when_its_gauges_are_read_and_never_per_request(caplog: pytest.LogCaptureFixture) -> None:
    kit = NodeKit(link=replace(GOOD, rtt_ms=9000.0))
    assert kit.node.gauges()["inputs_clamped"] == 0.0
    kit.node.rules = SiteRules(Fitted(), replace(SNAPSHOT, prices=SOME.prices))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await kit.node.answer(ask())
        assert not caplog.records
        assert [kit.node.gauges()["inputs_clamped"] for _ in range(3)] == [1.0] * 3
        assert len(caplog.records) == 1 and "link.rtt_ms" in caplog.text
