"""``netgpt replay`` over real logs: what it prints and writes, what it suggests, what it says when it cannot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from actors.log_record import OffloadRecord
from actors.offload_log import OffloadLog, compact
from orchestrator.policy_options import PolicyOptions
from orchestrator.replay.command import replay
from orchestrator.replay.reading import read
from orchestrator.replay.suggest import parse_target, suggest
from policies.errors import BadConfig, LogError, NetGPTError
from policies.replay import Estimator, Figures, Priced, figures, kept, price, thresholds
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdPolicy
from policies.toolcalls import render
from policies.types import CloudWork, LinkState, Objective, Prices, Reason, Route, RoutingState, ToolCall

OPTIONS = PolicyOptions()
PRICES = Prices(request_usd=0.0005, input_usd_per_mtok=1.0, output_usd_per_mtok=4.0)
LINKS = (LinkState(20.0, 5e6, 2e7), LinkState(300.0, 5e4, 2e5))
DOWN = LinkState(20.0, 5e6, 2e7, up=False)
AUDIT = 0.2


def call(number: int) -> str:
    return render([ToolCall("move_slice", {"slice": number})])


def record(
    index: int, rng: np.random.Generator, link: LinkState, shape: tuple[float, float] = (3.0, 1.5)
) -> OffloadRecord:
    """One request as a site with the fixed threshold 0.7 logs it; the score is calibrated."""
    score = float(rng.beta(*shape))
    draft, cloud = call(index), call(index if rng.random() < score else index + 1)
    offload = link.up and score < 0.7
    propensity = 1.0 if offload else AUDIT if link.up else 0.0
    labelled = bool(rng.random() < propensity)
    return OffloadRecord(
        time_us=index + 1,
        request_id=str(index),
        request_hash=str(index),
        messages='[{"role":"user","content":"move slice"}]',
        draft=draft,
        draft_version="edge-0001",
        score=score,
        threshold=0.7,
        policy="fixed",
        prices=PRICES,
        link=link,
        route=Route.CLOUD if offload else Route.EDGE,
        reason=Reason.SCORE_BELOW if offload else Reason.SCORE_PASSED if link.up else Reason.LINK_DOWN,
        propensity=propensity,
        cloud=cloud if labelled else None,
        prompt_tokens=200,
        draft_tokens=20,
        cost_usd=0.001 if labelled else 0.0,
    )


def records(count: int = 1500, seed: int = 0, links: Sequence[LinkState] = (*LINKS, DOWN)) -> list[OffloadRecord]:
    rng = np.random.default_rng(seed)
    return [record(index, rng, links[index % len(links)]) for index in range(count)]


def write(root: Path, given: Sequence[OffloadRecord], site: str = "a") -> Path:
    log = OffloadLog(root, site, sync=False)
    for one in given:
        log.append(one)
    assert log.flush()
    log.close()
    return root


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites' logs, one compacted to Parquet, one still segments."""
    root = tmp_path_factory.mktemp("log")
    given = records()
    write(root, given[:700], "a")
    assert compact(root)
    return write(root, given[700:], "b")


@pytest.fixture(scope="module")
def out(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a replay of some policies was written, with what it printed beside it."""
    made = tmp_path_factory.mktemp("out")
    (made / "printed").write_text(run(log, made, ["fixed:0.7", "fixed:0.5", "optimal"]))
    return made


def nothing_to_load(path: Path, version: str | None) -> ThresholdPolicy:
    raise AssertionError("no policy file was named")


class HalfWhereFast:
    """A policy of one's own: 0.5 on a fast link, else 0."""

    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        return 0.5 if state.link.rtt_ms < 100 else 0.0


def run(log: Path, out: Path, policies: Sequence[str] = (), target: str | None = None, **changes: Any) -> str:
    console = Console(file=StringIO(), width=220)
    load = changes.pop("load", nothing_to_load)
    replay(log, policies, OPTIONS.model_copy(update=changes), out, load, console, target)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def results(out: Path) -> dict[str, Any]:
    found = json.loads((out / "replay.json").read_text())
    assert isinstance(found, dict)
    return found


def row(out: Path, name: str) -> dict[str, Any]:
    return next(one for one in results(out)["rows"] if one["name"] == name)


def test_a_replay_shows_every_policy_and_writes_its_files(out: Path) -> None:
    text = (out / "printed").read_text()
    for name in ("edge only", "cloud only", "as logged", "fixed:0.7", "optimal", "20 ms, 5 Mbit/s", "down"):
        assert name in text
    assert "could not be labelled" in text and "The edge advantage rises in the score" in text
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "frontier.html").read_text()
    assert "<svg" in page and "as logged" in page
    assert not re.search(r"<(script|link|img)\b|@import|\bsrc=", page)


def test_the_logged_rule_comes_back_as_the_policy_it_was(out: Path) -> None:
    assert row(out, "as logged")["estimates"] == row(out, "fixed:0.7")["estimates"]
    offloaded = sum(one.route == "cloud" for one in records()) / 1500
    assert row(out, "as logged")["estimates"][0]["mean"]["offload"] == pytest.approx(offloaded)


def test_the_interval_holds_what_full_knowledge_says(out: Path) -> None:
    rng, right = np.random.default_rng(0), []
    for index in range(1500):
        score, luck = rng.beta(3, 1.5), rng.random()
        rng.random()
        down = index % 3 == 2
        right.append(float(luck < score) if score >= 0.5 or down else OPTIONS.objective.cloud_accuracy)
    for found in row(out, "fixed:0.5")["estimates"]:
        assert found["low"]["success"] <= np.mean(right) <= found["high"]["success"]


def test_regrets_are_never_negative_and_knowing_the_truth_is_worth_most(out: Path) -> None:
    for name in ("fixed:0.5", "optimal", "cloud only", "as logged"):
        found = row(out, name)
        assert found["request_regret_usd"] >= 0 and found["state_regret_usd"] <= found["request_regret_usd"]
    assert row(out, "fixed:0.5")["state_regret_usd"] >= 0


def test_the_link_table_sums_up_to_the_whole(out: Path) -> None:
    found = results(out)
    assert sum(link["requests"] for link in found["links"]) == found["requests"] == 1500
    mean = sum(link["requests"] * link["means"]["optimal"]["utility_usd"] for link in found["links"]) / 1500
    assert mean == pytest.approx(row(out, "optimal")["estimates"][0]["mean"]["utility_usd"])
    down = next(link for link in found["links"] if link["name"] == "down")
    assert down["oracle"] is None
    assert down["labelled"] == 0 and down["means"]["cloud only"]["offload"] == 0


def test_a_fully_labelled_log_is_evaluated_exactly(tmp_path: Path) -> None:
    given = [replace(one, cloud=one.cloud or one.draft, propensity=1.0) for one in records(300, 1, LINKS)]
    run(write(tmp_path / "log", given), tmp_path, ["fixed:0.4"])
    found = row(tmp_path, "fixed:0.4")["estimates"][0]
    expected = np.mean([one.cloud == one.draft if one.score >= 0.4 else 0.97 for one in given])
    assert found["estimator"] == "exact" and found["mean"]["success"] == pytest.approx(float(expected))


def test_a_policy_file_is_loaded_for_the_newest_scores(log: Path, tmp_path: Path) -> None:
    path, asked = tmp_path / "policy.json", []

    def load(path: Path, version: str | None) -> ThresholdPolicy:
        asked.append((path, version))
        return HalfWhereFast()

    path.write_text("{}")
    run(log, tmp_path, [str(path)], load=load)
    assert asked == [(path, "edge-0001")]
    offload = [one.link.up and one.score < (0.5 if one.link.rtt_ms < 100 else 0.0) for one in records()]
    assert row(tmp_path, str(path))["estimates"][0]["mean"]["offload"] == pytest.approx(float(np.mean(offload)))


def test_long_cloud_answers_to_hard_prompts_are_found_in_the_log(tmp_path: Path) -> None:
    """What the draft's length cannot tell, the labelled calls can."""
    rng = np.random.default_rng(8)
    given = [record(index, rng, LINKS[0], shape=(1.0, 1.0)) for index in range(2500)]
    hard = [
        replace(one, cloud_output_tokens=int(5000 * np.exp(-8 * one.score)) + 20 if one.cloud else 0) for one in given
    ]
    assert "rises in the score" in run(write(tmp_path / "even", given), tmp_path / "a")
    assert "so a single threshold is not optimal there" in run(write(tmp_path / "hard", hard), tmp_path / "b")


def test_failed_calls_lower_the_chance_of_a_label(tmp_path: Path) -> None:
    given = records(400, 2, LINKS)
    asked = [one for one in given if one.cloud is not None]
    failed = {one.request_id for one in asked[::4]}
    spoilt = [
        replace(one, cloud=None, cloud_error="Unreachable: timeout", route=Route.EDGE, reason=Reason.CLOUD_FAILED)
        if one.request_id in failed
        else one
        for one in given
    ]
    found = read(write(tmp_path, spoilt))
    assert found.answered == pytest.approx(1 - len(failed) / len(asked))
    assert found.logged.propensity.max() == pytest.approx(found.answered)
    assert found.logged.offloaded.sum() >= sum(one.score < 0.7 for one in given)


def test_a_prompt_is_cached_as_in_its_own_call_or_else_as_in_those_of_its_site(tmp_path: Path) -> None:
    """Prompts have 200 tokens at the edge and 400 in the cloud."""
    asked, kept_one = record(0, np.random.default_rng(0), LINKS[0]), record(1, np.random.default_rng(1), LINKS[0])
    calls = [
        replace(asked, cloud=asked.draft, propensity=1.0, cloud_input_tokens=400, cloud_cached_tokens=cached)
        for cached in (0, 100, 200)
    ]
    write(tmp_path, [*calls, kept_one], "a")
    write(tmp_path, [kept_one], "b")
    found = read(tmp_path)
    assert found.logged.amounts[:, 2].tolist() == [0.0, 50.0, 100.0, 50.0, 0.0]
    assert (found.logged.amounts[:, 1] + found.logged.amounts[:, 2] == 200.0).all()
    assert found.measured[:3, 1:3].tolist() == [[400.0, 0.0], [300.0, 100.0], [200.0, 200.0]]


def test_a_draft_that_was_not_begun_is_priced_by_what_the_call_took(tmp_path: Path) -> None:
    given = [
        replace(
            record, reason=Reason.DRAFT_SKIPPED, draft="", draft_tokens=0, prompt_tokens=900, score=0.0,
            cloud_input_tokens=150, cloud_output_tokens=30,
        )
        if record.reason is Reason.SCORE_BELOW else record
        for record in records(100, links=LINKS)
    ]  # fmt: skip
    reading = read(write(tmp_path, given))
    skipped = np.array([record.reason is Reason.DRAFT_SKIPPED for record in given])
    assert skipped.any() and (reading.logged.amounts[skipped, 1:4] == [150, 0, 30]).all()
    assert (reading.logged.amounts[~skipped, 1] == 200).all()


def test_a_request_is_priced_with_the_queue_it_saw(tmp_path: Path) -> None:
    first, second = records(2, 9, LINKS[:1])
    given = [replace(one, cloud=one.draft, propensity=1.0) for one in (first, replace(second, queue_s=3.0))]
    costs = priced(write(tmp_path, given))
    assert costs.kappa_usd[1] - costs.kappa_usd[0] == pytest.approx(3.0 * OPTIONS.objective.second_usd)
    assert costs.money_usd[1] == costs.money_usd[0]


@pytest.mark.parametrize("change", [{"draft_error": "no such tool"}, {"score": 0.0}])
def test_an_unusable_draft_counts_as_wrong_and_is_never_kept(tmp_path: Path, change: dict[str, Any]) -> None:
    given = [replace(one, cloud=one.draft, propensity=1.0, **change) for one in records(5, 3, LINKS)]
    log = read(write(tmp_path, given)).logged
    assert not log.edge_right.any() and not kept(log, 0.0).any()


def priced(log: Path) -> Priced:
    return price(read(log).logged, OPTIONS.speed, OPTIONS.objective)


def policy_of(text: str) -> ThresholdPolicy:
    """What the suggested piece of configuration means to the configuration itself."""
    section = PolicyOptions.model_validate(yaml.safe_load(text)["policy"])
    if section.kind == "fixed":
        return FixedThreshold(section.value)
    return OptimalThreshold(section.objective, section.speed, section.floor)


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        ("success=0.84", lambda f: f.success >= 0.84),
        ("offload=0.2", lambda f: f.offload <= 0.2),
        ("cost_usd_per_k=0.25", lambda f: f.money_usd <= 0.25e-3),
    ],
)
def test_a_suggestion_reaches_its_target_no_fixed_threshold_does_better(
    log: Path, target: str, holds: Callable[[Figures], bool]
) -> None:
    given = priced(log)
    policy = policy_of(suggest(given, OPTIONS, parse_target(target)).text)
    found = figures(given, kept(given.log, thresholds(policy, given)), Estimator.DR)
    assert holds(found)
    fixed = [figures(given, kept(given.log, tau), Estimator.DR) for tau in np.linspace(0, 1, 51)]
    rivals = [one for one in fixed if holds(one)]
    assert rivals
    if target.startswith("success"):
        cheapest = min(one.money_usd + one.latency_usd for one in rivals)
        assert found.money_usd + found.latency_usd <= cheapest
    else:
        assert found.success >= max(one.success for one in rivals)


def test_the_suggestion_is_printed_with_what_it_promises(log: Path, tmp_path: Path) -> None:
    text = run(log, tmp_path, target="offload=0.2")
    promise, section = text[text.index("# offload=0.2: success") :].split("policy:", 1)
    assert "estimator dr, 95% intervals" in promise
    assert isinstance(policy_of("policy:" + section), FixedThreshold | OptimalThreshold)


@pytest.mark.parametrize("name", ["success=0.999", "cost_usd_per_k=0", "offload=0"])
def test_a_target_out_of_reach_says_what_can_be_reached(name: str, tmp_path: Path) -> None:
    given = records(300, 4)
    given[::5] = [replace(one, draft_error="no such tool") for one in given[::5]]
    log = priced(write(tmp_path, given))
    with pytest.raises(BadConfig, match=r"no threshold reaches it on this log, the (most|least) is") as refused:
        suggest(log, OPTIONS, parse_target(name))
    nearest = parse_target(str(refused.value).rsplit("Fix: ask for ", 1)[1])
    assert nearest.reached(suggest(log, OPTIONS, nearest).estimate.mean)


@pytest.mark.parametrize("target", ["speed=1", "success", "success=", "success=nan", "success=1.2", "offload=-1", ""])
def test_a_target_that_cannot_be_read_is_refused_with_the_fix(log: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(BadConfig, match=r"--suggest .*Fix: "):
        run(log, tmp_path, target=target)


@pytest.mark.parametrize("name", ["fixed", "fixed:", "fixed:x", "fixed:1.5", "fixed:nan", "best", "", "missing.json"])
def test_a_policy_that_does_not_exist_is_refused_with_the_fix(log: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadConfig, match=rf"--policy {name}: .*Fix: "):
        run(log, tmp_path, [name])


def test_a_policy_file_for_other_scores_is_the_loaders_refusal(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{}")

    def load(path: Path, version: str | None) -> ThresholdPolicy:
        raise BadConfig(f"{path}: fitted on other scores than {version}")

    with pytest.raises(BadConfig, match="other scores than edge-0001"):
        run(log, tmp_path, [str(path)], load=load)


class Broken:
    """A policy whose thresholds are no probabilities."""

    def threshold(self, state: RoutingState, work: CloudWork) -> float:
        return float("nan")


def test_a_policy_that_gives_no_probability_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(BadConfig, match="cannot decide on this log"):
        run(log, tmp_path, [str(tmp_path / "p.json")], load=lambda path, version: Broken())


def test_logs_that_say_nothing_are_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    unlabelled = [replace(one, cloud=None) for one in records(30, 5)]
    down = [replace(one, propensity=0.0) for one in records(30, 6)]
    for root, why in (
        (tmp_path / "missing", "no such directory"),
        (tmp_path / "empty", "no record is in it"),
        (write(tmp_path / "unlabelled", unlabelled), "none of its 30 records holds an answer"),
        (write(tmp_path / "no-chance", down), "none of its 30 records holds an answer"),
    ):
        with pytest.raises(LogError, match=rf"{why}.*Fix: "):
            run(root, tmp_path / "out")


def test_a_directory_that_cannot_be_written_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetGPTError, match=r"--out .*cannot be written.*Fix: "):
        run(log, tmp_path / "file" / "out")


def test_the_replay_follows_the_objective_it_is_given(log: Path, tmp_path: Path) -> None:
    run(log, tmp_path / "a", objective=Objective(0.02, 0.002, 0.97))
    run(log, tmp_path / "b", objective=Objective(0.02, 0.0, 1.0))
    before, after = (row(tmp_path / name, "cloud only")["estimates"][0]["mean"] for name in ("a", "b"))
    assert after["latency_usd"] == 0 < before["latency_usd"] and after["success"] > before["success"]
