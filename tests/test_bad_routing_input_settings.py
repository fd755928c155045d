"""A hostile user's settings and link traces: one sentence with file, key and fix, or a stated conservative meaning.

Covered elsewhere: unknown keys, wrong types, budgets and rates out of range (``test_config``); hours without a price or
with two, unknown zones, clocks that change, what is no time (``test_tariff``); a guarantee's levels (``test_risk``).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_bad_routing_input import netgpt

from cluster.traces import Trace, load, resolve
from orchestrator.config import default_config, load_config
from orchestrator.rules import default_snapshot, limits
from policies.budget import Budgets, DualAscent, Spent
from policies.errors import BadConfig

DIGITS = "1" + "0" * 400  # an integer that no float can hold


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("policy: {objective: {value_usd: -1, second_usd: 0, cloud_accuracy: 1}}", "policy.objective.value_usd: -1"),
        ("policy: {objective: {value_usd: 1e-320, second_usd: 0, cloud_accuracy: 1}}", "at least 1e-09"),
        ("policy: {objective: {value_usd: .nan, second_usd: 0, cloud_accuracy: 1}}", "value_usd: nan"),
        ("policy: {objective: {value_usd: 1, second_usd: 1e308, cloud_accuracy: 1}}", "second_usd: 1e+308"),
        ("policy: {budget: {usd_per_hour: .inf}}", "usd_per_hour: inf cannot be used: it must be a finite number"),
        ("policy: {budget: {p95_s: 0}}", "policy.budget.p95_s: 0"),
        ("policy: {budget: {offload_rate: -0.1}}", "policy.budget.offload_rate: -0.1"),
        ("policy: {cap: {offloads_per_hour: -1}}", "policy.cap.offloads_per_hour: -1"),
        ("policy: {cap: {usd_per_hour: .nan}}", "policy.cap.usd_per_hour: nan"),
        ("policy: {risk: 1}", "policy.risk: 1"),
        ("policy: {risk: .nan}", "policy.risk: nan"),
        ("policy: {risk: 0.1, risk_delta: 0}", "policy.risk_delta: 0"),
        ("policy: {kind: fixed, value: .nan}", "policy.value: nan"),
        ("policy: {kind: fixed, value: yes}", "line 1: policy.value: True is yes or no"),
        ("prices: {request_usd: on}", "line 1: prices.request_usd: True is yes or no"),
        ("policy: {kind: policynet, file: .}", "policy.file: . does not exist or is no file"),
        (f"policy: {{kind: policynet, file: {'a' * 300}}}", "does not exist or is no file"),
        ("telemetry: {snapshot_ttl_s: .inf}", "snapshot_ttl_s: inf"),
        ("telemetry: {snapshot_ttl_s: 1e10}", "telemetry.snapshot_ttl_s: 10000000000.0 is not allowed"),
        ("link: {initial: {up: nowhere}}", "link.initial.up: trace 'nowhere': no such file"),
        ("link: {initial: {down: .nan}}", "a rate of nan bit/s"),
        ("tariff:", "tariff: it is empty"),
        ("tariff: {}", "tariff.periods is missing"),
        ("tariff: 5", "tariff: 5 cannot be used"),
        ("tariff: {zone: UTC, periods: []}", "no price"),
        ("tariff: {zone: Mars, periods: [{start: 08:00, end: 20:00, prices: {}}]}", "end must be a time 'HH:MM'"),
        ("policy: &a {objective: *a}", "a value cannot be read"),
        (f"policy: {{value: {'9' * 5000}}}", "a value cannot be read"),
        ("var: 2026-13-45", "a value cannot be read"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(BadConfig) as refused:
        load_config(path)
    line = str(refused.value)
    assert says in line and line.startswith(str(path)) and "Fix: " in line and "\n" not in line


def test_the_command_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("policy: {kind: fixed, value: yes}")
    assert f"{path}, line 1: policy.value: True is yes or no" in netgpt("replay", str(tmp_path), "-c", str(path))


def test_a_yes_stays_a_yes_where_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("policy: {before: no}\nlog: {sync: off}")
    assert not load_config(path).policy.before


def test_the_least_and_the_most_that_settings_allow_make_a_snapshot() -> None:
    for dollars in (1e-9, 1e9):
        objective = {"value_usd": dollars, "second_usd": dollars, "cloud_accuracy": 1.0}
        speed = {"round_trips": dollars, "ttft_s": dollars, "per_token_s": dollars}
        given = default_config(policy={"objective": objective, "speed": speed}, telemetry={"snapshot_ttl_s": dollars})
        assert default_snapshot(given).objective.value_usd == dollars


def test_a_cap_of_nothing_allows_no_offload() -> None:
    none, free = (limits(default_config(policy={"cap": {name: 0}})) for name in ("offloads_per_hour", "usd_per_hour"))
    assert not none.allow(0.0) and none.budget_left == 0.0
    assert not free.allow(1e-6) and free.allow(0.0)


def test_a_budget_of_nothing_forbids_offloads_after_the_first_few() -> None:
    ascent = DualAscent(Budgets(offload_rate=0.0), value_usd=0.02)
    for second in range(21):
        ascent = ascent.observe(Spent(True, 0.001, 1.0), float(second))
    assert ascent.penalty_usd(0.001, 1.0) == 0.02  # tau is 0 whatever the link


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (DIGITS, ":1: '100000000000000' is not a whole number"),
        ("9" * 5000, ":1: '999999999999999' is not a whole number"),
        ("1\n604800001\n", "longer than a week"),
        ("1\nnan\n", ":2: 'nan' is not a whole number"),
        ("1\ninf\n", ":2: 'inf' is not a whole number"),
        ("1\n\n2\n", ":2: '' is not a whole number"),
        ("1\x002\n", ":1: .* is not a whole number"),
    ],
)
def test_a_trace_that_is_none_is_refused_by_file_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "mine.trace"
    path.write_text(content)
    with pytest.raises(BadConfig, match=rf"mine\.trace.*{says}"):
        load(path)


def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="not a readable trace file"):
        load(tmp_path)
    with pytest.raises(BadConfig, match="not a readable trace file"):
        resolve("/proc/self/mem")  # is there, and cannot be read
    for name in (str(tmp_path), "a" * 5000, "a\0b", ""):
        with pytest.raises(BadConfig, match="no such file, and not one of the bundled traces"):
            resolve(name)
    with pytest.raises(BadConfig, match="longer than a week"):
        Trace("t", (1, 10**400))
