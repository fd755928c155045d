"""The demo's pure parts: figures of outcomes, counterfactual policies, and the page."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from actors.log_record import OffloadRecord
from orchestrator.bundled.train import MODELS
from orchestrator.client import Latency, Link, RouteInfo
from orchestrator.demo.play import Outcome
from orchestrator.demo.reference import Case, cases, frontier, with_whole_drafts
from orchestrator.demo.report import write_report
from orchestrator.demo.summary import PhaseResult, figures, longest_gap_ms, phase_summary
from orchestrator.demo.workload import Phase, stages, traffic
from orchestrator.tasks.generator import Split, tasks
from policies.types import CloudSpeed, Objective, Prices

TASK = next(tasks(0, Split.TEST))


def outcome(route: str | None, correct: bool, at_s: float = 0.0, stage: str = "wide") -> Outcome:
    link = Link(rtt_ms=10.0, up_bps=5e7, down_bps=1e8, jitter_ms=0.0, loss=0.0, up=True)
    info = None
    if route:
        info = RouteInfo.model_validate(
            {
                "route": route,
                "reason": "score_passed",
                "score": 0.9,
                "threshold": 0.8,
                "version": "edge-0001",
                "edge_version": "edge-0001",
                "degraded": False,
                "cost_usd": 0.001 if route == "cloud" else 0.0,
                "latency_ms": Latency(draft=10.0, cloud=0.0, total=20.0),
                "link": link,
            }
        )
    return Outcome(TASK, stage, at_s, 20.0, correct, route is not None, info, None if route else "503")


def test_failed_requests_count_as_wrong_and_not_as_offloaded() -> None:
    row = figures([outcome("edge", True), outcome("edge", False), outcome("cloud", True), outcome(None, False)])
    assert row["success"] == 0.5
    assert row["offload_rate"] == pytest.approx(1 / 3)
    assert row["edge_success"] == 0.5
    assert row["failed"] == 1
    assert row["cost_usd"] == pytest.approx(0.001)


def test_figures_of_nothing_are_unknown_rather_than_zero() -> None:
    row = figures([])
    assert row["success"] is None
    assert row["latency_ms"] == {"p50": None, "p95": None}


def test_a_phase_is_summed_up_by_link_as_well() -> None:
    result = PhaseResult("before", "edge-0001", (outcome("edge", True), outcome("cloud", False, stage="narrow")))
    summary = phase_summary(result)
    assert summary["by_link"]["wide"]["success"] == 1.0
    assert summary["by_link"]["narrow"]["offload_rate"] == 1.0


def test_the_longest_silence_is_between_finished_answers() -> None:
    assert longest_gap_ms([outcome("edge", True, at_s=t) for t in (0.0, 0.1, 0.7)]) == pytest.approx(600.0)


def case(score: float, edge: bool, cloud: bool, up: bool = True) -> Case:
    return Case(score, edge, cloud, up, offloaded=up and score < 0.5, price_usd=0.01)


def test_counterfactual_policies_use_the_answer_they_would_have_served() -> None:
    curves = frontier([case(0.9, True, True), case(0.2, False, True), case(0.1, False, True, up=False)])
    assert curves["edge only"][0].success == pytest.approx(1 / 3)
    assert curves["edge only"][0].price_usd == 0.0
    assert curves["cloud only"][0].success == pytest.approx(2 / 3), "nothing reaches the cloud over a dead link"
    assert curves["link-aware threshold"][0].price_usd == pytest.approx(0.01 / 3)
    prices = [point.price_usd for point in curves["fixed thresholds"]]
    assert prices == sorted(prices)


def test_a_prompt_is_priced_with_what_is_cached_of_it_as_in_a_replay() -> None:
    """Two prompts of 1,000 tokens were asked, all and half of whose tokens were cached; a third was not asked."""
    prices = Prices(input_usd_per_mtok=1.0, cached_usd_per_mtok=0.1)
    base = OffloadRecord(
        time_us=1, request_id="r", request_hash="0", messages="[]", cloud="", prices=prices, prompt_tokens=1000
    )
    records = [
        replace(base, cloud_input_tokens=sent, cloud_cached_tokens=hit) for sent, hit in ((800, 800), (800, 400))
    ]
    given = cases([(TASK, record) for record in (*records, base)], {}, Objective(1.0, 0.0, 1.0), CloudSpeed())
    assert [case.price_usd for case in given] == pytest.approx([1e-4, 5.5e-4, 3.25e-4])


def test_the_workload_has_400_requests_over_four_links_and_fresh_tasks_each_phase() -> None:
    plan = stages()
    assert sum(stage.requests for stage in plan) >= 400
    assert len({stage.link.name for stage in plan}) >= 4
    assert any(stage.link.outage for stage in plan)
    before, after = (
        {task.messages[-1]["content"] for task in itertools.chain(*Phase(name, seed).tasks(plan))}
        for name, seed in (("before", 100), ("after", 101))
    )
    assert len(before & after) < 0.05 * len(before)


def test_the_report_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    phases = [
        PhaseResult(
            name, f"edge-{name}", (outcome("edge", True), outcome("cloud", True, 1.0), outcome(None, False, 2.0))
        )
        for name in ("before", "after")
    ]
    summary = {
        "phases": [phase_summary(phase) for phase in phases],
        "swap": None,
        "learner": {"samples": 10, "rounds": 0, "seconds": 1.0, "gate": "refused <b>"},
    }
    page = tmp_path / "report.html"
    write_report(page, summary, phases, frontier([case(0.9, True, True), case(0.2, False, True)]))
    html = page.read_text()
    assert html.count("<svg") == 4
    assert "refused &lt;b&gt;" in html
    for reference in ('src="http', 'href="http', "<script", "<link"):
        assert reference not in html


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_drafts_that_were_never_made_are_made_for_the_report_by_the_same_weights() -> None:
    asked = list(itertools.islice(traffic(7), 12))
    base = {"time_us": 1, "request_id": "r", "request_hash": "0" * 32, "messages": "[]"}
    skipped = [(task, OffloadRecord(**base, reason="draft_skipped", route="cloud")) for task in asked]
    kept = (asked[0], OffloadRecord(**base, reason="score_passed", draft="as it was", score=0.9))
    found = with_whole_drafts([*skipped, kept], MODELS / "edge")
    drafts = [record.draft for _, record in found]
    assert drafts[-1] == "as it was"
    assert all(draft.startswith("<tool_call>") for draft in drafts[:-1])
    assert any(record.score > 0.9 for _, record in found[:-1])
    assert {record.route for _, record in found[:-1]} == {"cloud"}
