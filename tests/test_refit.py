"""A round brings the threshold and the scorer of its weights, and what a site makes of them, whole or damaged."""

from __future__ import annotations

import io
import json
import logging
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_fakes import GOOD, SNAPSHOT, NodeKit
from rich.console import Console
from test_http import listening
from test_learner import call, record, write
from test_site import Endpoint, routed, running
from tiny_model import tiny_model_dir

from actors.engine import Completion, Prompt
from actors.log_record import OffloadRecord
from actors.model_store import ModelStore, ModelVersion, verify
from actors.options import LearnerOptions
from actors.scorer import Proposal
from actors.site_rules import SiteRules
from actors.swap import Weights
from actors.training import CANDIDATE, Draft, TrainingJob, TrainingOutcome
from orchestrator.client import AsyncNetGPT
from orchestrator.config import Config, default_config
from orchestrator.learner import Learner, RoundReport
from orchestrator.own_threshold import THRESHOLD_FILE, has_parent
from orchestrator.refit import refit
from orchestrator.rules import NOTHING_FITTED, PolicyBuilder, next_scorer
from orchestrator.train_scorer import train_scorer
from policies.calibration import Calibrator
from policies.errors import BadConfig, StoreError
from policies.funcdyn import INPUTS, StateInputs
from policies.policy_file import load_policy, save
from policies.policynet import PolicyNet
from policies.toolcalls import parse
from policies.types import CloudWork, LinkState, Prices, RoutingState

WORK = CloudWork(1000, 500, 200, 20)
PRICES = Prices(0.0005, 0.3, 0.03, 1.5)
STATE = RoutingState(GOOD, PRICES)
OPTIONS = {"min_samples": 20, "gate_share": 0.5, "drift_cap": 50.0}


def logged(count: int, **changes: object) -> list[OffloadRecord]:
    """Offloads over links of all kinds; the cloud always said b."""
    rng = random.Random(1)
    plain = {"prices": PRICES, "prompt_tokens": 200, **changes}
    links = [LinkState(rng.uniform(10, 300), rng.uniform(1e6, 1e7), 2e7) for _ in range(count)]
    return [record(n, **{"link": link, **plain}) for n, link in enumerate(links)]


def trained(job: TrainingJob, name: str, right: float = 0.85) -> TrainingOutcome:
    """Nothing is trained: the base's files, all of them, and answers that are mostly right and know when."""
    directory = Path(job.work_dir) / CANDIDATE
    shutil.copytree(job.base_dir, directory, ignore=shutil.ignore_patterns("MANIFEST.json"))
    (directory / THRESHOLD_FILE).write_text("the base's own")
    (directory / "made.json").write_text(json.dumps([name, right]))
    rng = random.Random(2)
    good = [rng.random() < right for _ in job.trials]
    after = [Draft(call("b" if ok else "a"), (-rng.random() * (0.5 if ok else 2.0), -0.1)) for ok in good]
    before = [Draft(call("b" if rng.random() < 0.2 else "a"), (-0.3, -0.1)) for _ in job.trials]
    return TrainingOutcome(str(directory), before, after, 0.1)


class World:
    """A configuration, a store that holds one version, and a fitted policy for that one."""

    def __init__(self, var: Path, records: Sequence[OffloadRecord], **policy: object) -> None:
        model = tiny_model_dir(var / "tiny", 1)
        (model / "calibrator.json").write_text(replace(Calibrator.guess(), samples=100).to_json())
        self.store = ModelStore(var / "models")
        self.first = self.store.publish(model)
        if policy.get("kind") == "policynet":
            policy["file"] = str(var / "fitted.json")
            save(var / "fitted.json", constant(0.3), self.first.version, {})
        self.config = default_config(var=var, policy=policy, learner=OPTIONS)
        write(self.config.log_dir, records)

    def round(self, train: Any = trained, config: Config | None = None) -> RoundReport:
        config = config or self.config
        fit, options = partial(refit, config), LearnerOptions(**OPTIONS)  # type: ignore[arg-type]
        return Learner(config.log_dir, self.store, options, config.work_dir, train, fit).round()

    def published(self, train: Any = trained) -> ModelVersion:
        report = self.round(train)
        assert report.version, report.reason
        return self.store.get(report.version.version)


def constant(tau: float) -> PolicyNet:
    """A network that always says ``tau``."""
    inputs = StateInputs.of([STATE, RoutingState(replace(GOOD, rtt_ms=300.0), PRICES)], WORK)
    none, layer = (0.0,) * 3, ((0.0,) * 3,)
    return PolicyNet(inputs, layer * len(INPUTS), none, layer * 3, none, none, math.log(tau / (1 - tau)))


def weights(version: ModelVersion) -> Weights:
    return Weights(version.version, version.path)


def tau(builder: PolicyBuilder) -> float:
    return builder(SNAPSHOT).threshold(STATE, WORK)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, RoundReport, ModelVersion]:
    world = World(tmp_path_factory.mktemp("var"), logged(400), kind="policynet")
    report = world.round()
    assert report.version, report.reason
    return world, report, world.store.get(report.version.version)


Learnt = tuple[World, RoundReport, ModelVersion]

# ---- thresholds


def test_a_round_publishes_a_threshold_with_its_weights_and_the_site_decides_by_it(learnt: Learnt) -> None:
    world, report, second = learnt
    builder = PolicyBuilder(world.config, weights(world.first))
    assert (builder.kind, builder.reason) == ("policynet", "policy.file was fitted for this version")
    assert tau(builder) == pytest.approx(0.3)
    builder.live(weights(second))
    own = load_policy(second.path / THRESHOLD_FILE, None)
    assert (builder.kind, builder.reason) == ("policynet", "fitted with this version")
    assert tau(builder) == own.threshold(STATE, WORK) != pytest.approx(0.3)
    assert report.refits["threshold"].startswith("policynet, fitted on") and second.meta["refits"] == report.refits


def test_the_threshold_is_covered_by_the_versions_checksum(learnt: Learnt, tmp_path: Path) -> None:
    _, _, second = learnt
    damaged = _copy(second, tmp_path)
    (damaged / THRESHOLD_FILE).write_text((damaged / THRESHOLD_FILE).read_text().replace("0.", "1.", 1))
    with pytest.raises(StoreError, match=f"{THRESHOLD_FILE}: fails its checksum"):
        verify(damaged, second.sha256)


def test_a_roll_back_takes_the_older_versions_threshold_again(learnt: Learnt) -> None:
    world, _, second = learnt
    builder = PolicyBuilder(world.config, weights(world.first))
    rules = SiteRules(builder, SNAPSHOT)
    seen = []
    for version in (second, world.first, second):
        builder.live(weights(version))
        rules.renew()
        seen.append(rules.current()[1].threshold(STATE, WORK))
    assert seen[0] == seen[2] != seen[1] == pytest.approx(0.3)


def test_a_restart_goes_on_with_the_versions_own_threshold_whatever_file_is_configured(learnt: Learnt) -> None:
    world, _, second = learnt
    assert PolicyBuilder(world.config, weights(second)).reason == "fitted with this version"


async def test_a_whole_site_decides_by_the_swapped_in_threshold_and_after_a_roll_back_by_the_older(
    learnt: Learnt,
) -> None:
    world, _, second = learnt
    engine = {"kind": "transformers", "model": str(world.first.path)}
    config = default_config(
        var=world.config.var / "site",
        site={"port": 0, "engine": engine, "audit_rate": 0.0},
        policy={"kind": "policynet", "file": str(world.config.policy.file)},
    )
    seen = []
    async with (
        listening(Endpoint(call("b"))) as cloud_url,
        routed(config) as (_, router),
        running(config, weights(world.first), cloud_url, router) as site,
        AsyncNetGPT(site.info()["url"], max_retries=0) as client,
    ):
        for version in (second, world.first):
            assert (await site.swap(version.version, version.path, version.sha256)).outcome == "live"
            await client.ask("put slice 3 in b", max_tokens=8)
            seen.append((site.info()["policy"], site.gauges()["threshold"]))
        damaged = await site.swap(second.version, second.path, "0" * 64)
        assert damaged.outcome == "rolled_back"
        seen.append((site.info()["policy"], seen[1][1]))
    own, older, still = seen
    assert own[0] == "policynet (fitted with this version)" and own[1] != older[1]
    assert older[1] == pytest.approx(0.3)
    assert older == still and older[0] == "policynet (policy.file was fitted for this version)"


def test_a_second_round_fits_its_own_and_back_goes_to_the_first_ones(tmp_path: Path) -> None:
    world = World(tmp_path, logged(400), kind="policynet")
    second = world.published()
    third = world.published(partial(trained, right=0.95))
    builder, seen = PolicyBuilder(world.config, weights(third)), []
    for version in (third, second):
        builder.live(weights(version))
        seen.append((builder.reason, tau(builder)))
    assert {reason for reason, _ in seen} == {"fitted with this version"} and seen[0][1] != seen[1][1]


def test_too_few_labels_are_said_the_round_publishes_and_the_closed_form_decides(tmp_path: Path) -> None:
    world = World(tmp_path, logged(80), kind="policynet")
    report = world.round()
    assert report.version, report.reason
    assert "at least 50 valid held-out drafts" in report.refits["threshold"]
    assert report.version.meta["refits"] == report.refits
    assert not (report.version.path / THRESHOLD_FILE).exists()
    builder = PolicyBuilder(world.config, weights(world.first))
    builder.live(weights(report.version))
    for one in (builder, PolicyBuilder(world.config, weights(report.version))):
        assert (one.kind, one.reason) == ("optimal", NOTHING_FITTED)


def test_labels_that_are_all_right_tell_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, logged(300), kind="funcdyn", file=str(tmp_path / "tiny" / "config.json"))
    report = world.round(partial(trained, right=1.0))
    assert report.version and "labelled drafts are right: nothing tells" in report.refits["threshold"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', "\x00" * 100, "whole", '"third_bias": NaN', '"third_bias": -1e999', "funcdyn"],
)
def test_a_published_threshold_that_cannot_be_used_is_an_error_said_and_the_closed_form_decides(
    learnt: Learnt, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    world, _, second = learnt
    source = _copy(second, tmp_path)
    whole = (source / THRESHOLD_FILE).read_text()
    bias = next(line for line in whole.splitlines() if "third_bias" in line)
    texts = {
        "whole": whole.replace('"score_version": "', '"score_version": "x'),
        "funcdyn": whole.replace('"kind": "policynet"', '"kind": "funcdyn"'),
    }
    new = texts.get(text) or (whole.replace(bias, text + ",") if "third_bias" in text else text)
    (source / THRESHOLD_FILE).write_text(new)
    third = ModelStore(tmp_path / "store").publish(source, parent=second.version)
    builder = PolicyBuilder(world.config, weights(world.first))
    with caplog.at_level(logging.ERROR):
        builder.live(weights(third))
    assert (builder.kind, builder.reason) == ("optimal", NOTHING_FITTED)
    assert f"the threshold of {third.version} is not used" in caplog.text
    assert tau(builder) == pytest.approx(tau(PolicyBuilder(default_config(), weights(third))))


@pytest.mark.parametrize("damage", ["changed", "gone", "manifest"])
def test_a_file_that_is_damaged_after_it_was_published_is_not_used(
    learnt: Learnt, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    world, _, second = learnt
    path = _copy(second, tmp_path)
    if damage == "changed":
        text = (path / THRESHOLD_FILE).read_text()
        (path / THRESHOLD_FILE).write_text(text.replace("0.", "0.1", 1))
    elif damage == "gone":
        (path / THRESHOLD_FILE).unlink()
    else:
        (path / "MANIFEST.json").write_text("[]")
    builder = PolicyBuilder(world.config, weights(world.first))
    with caplog.at_level(logging.ERROR):
        builder.live(Weights(second.version, path))
    assert builder.kind == "optimal" and f"the threshold of {second.version} is not used" in caplog.text


async def test_a_swap_to_a_version_with_a_damaged_threshold_is_rolled_back(learnt: Learnt, tmp_path: Path) -> None:
    second = learnt[2]
    path = _copy(second, tmp_path)
    (path / THRESHOLD_FILE).write_bytes(b"")
    kit = NodeKit(verify=verify)
    report = await kit.node.swap(second.version, path, second.sha256)
    assert report.outcome == "rolled_back" and f"{THRESHOLD_FILE}: fails its checksum" in (report.error or "")


def test_a_threshold_beside_other_weights_or_for_another_scorer_is_not_used(learnt: Learnt, tmp_path: Path) -> None:
    world, _, second = learnt
    source = _copy(second, tmp_path)
    (source / "calibrator.json").write_text(replace(Calibrator.guess(), samples=7).to_json())
    other = ModelStore(tmp_path / "store").publish(source, parent=second.version)
    (source / "scorer_preference.json").write_text("{}")
    scored = ModelStore(tmp_path / "store").publish(source, parent=second.version)
    builder = PolicyBuilder(world.config, weights(second))
    for version in (other, scored):
        builder.live(weights(version))
        assert builder.kind == "optimal"


def test_a_file_for_other_weights_is_refused_before_the_first_round_and_passed_over_after_it(learnt: Learnt) -> None:
    world, _, second = learnt
    wrong = world.config.policy.file
    assert wrong and not has_parent(world.first.path)
    with pytest.raises(BadConfig, match=r"score_version.*Fix"):
        PolicyBuilder(world.config, Weights("edge-0009-00000000", world.first.path))
    assert PolicyBuilder(world.config, Weights("edge-0009-00000000", second.path)).kind == "policynet"


def test_a_poisoned_log_costs_the_threshold_at_most(tmp_path: Path) -> None:
    wrong = [replace(GOOD, rtt_ms=-5.0), replace(GOOD, rtt_ms=1e308)]
    absurd = [replace(one, link=wrong[n % 2]) for n, one in enumerate(logged(300)[::2])]
    world = World(tmp_path, [*logged(300)[1::2], *absurd], kind="policynet")
    assert world.round().refits["threshold"].startswith("policynet, fitted on")
    write(world.config.log_dir, [replace(one, prompt_tokens=-1) for one in logged(40)])
    report = world.round()
    assert report.version and report.refits["threshold"].startswith("policynet, fitted on")
    assert sum(count for why, count in report.poisoned.items() if why.startswith("prompt_tokens")) == 40


def test_nothing_is_fitted_that_was_not_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, logged(200))
    report = world.round()
    assert report.version and report.refits == {}
    assert not (report.version.path / THRESHOLD_FILE).exists()


# ---- scorers


@pytest.mark.parametrize("kind", ["preference", "ensemble"])
def test_a_round_publishes_the_scorer_and_a_threshold_for_its_scores(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path, logged(500), kind="policynet", scorer=kind)
    threads = torch.get_num_threads()
    report = world.round()
    assert torch.get_num_threads() == threads
    assert report.version, report.reason
    assert report.refits["scorer"].startswith(f"{kind}, fitted on")
    assert report.refits["threshold"].startswith("policynet, fitted on")
    served = next_scorer(world.config, report.version.path)
    assert served.rater is not None
    drafts = [Proposal(Completion(call(to), (-0.1,) * 4, "stop", 4), parse(call(to)), True) for to in "ab"]
    prompt = Prompt([{"role": "user", "content": "put slice 3 in b"}], [])
    wrong, right = served.rater.score(prompt, drafts).scores
    assert 0 < wrong < right < 1
    assert PolicyBuilder(world.config, weights(report.version)).reason == "fitted with this version"
    plain = world.config.policy.model_copy(update={"scorer": "logprob"})
    assert PolicyBuilder(world.config.model_copy(update={"policy": plain}), weights(report.version)).kind == "optimal"


def test_a_scorer_that_cannot_be_fitted_is_said_and_log_probabilities_score(tmp_path: Path) -> None:
    world = World(tmp_path, logged(90), scorer="preference")
    report = world.round()
    assert report.version and "60 are needed. Fix" in report.refits["scorer"]
    assert next_scorer(world.config, report.version.path).rater is None


def test_a_candidate_whose_hidden_states_cannot_be_read_is_published_without_a_scorer(tmp_path: Path) -> None:
    def broken(job: TrainingJob, name: str) -> TrainingOutcome:
        outcome = trained(job, name)
        (Path(outcome.candidate_dir) / "tokenizer.json").write_text("{}")
        return outcome

    world = World(tmp_path, logged(300), kind="policynet", scorer="ensemble")
    report = world.round(broken)
    assert report.version and report.refits["scorer"].startswith("not fitted:")
    assert report.refits["threshold"].startswith("policynet, fitted on")  # for the log-probabilities that score then
    assert PolicyBuilder(world.config, weights(report.version)).kind == "policynet"


def test_a_scorer_that_is_trained_by_hand_brings_a_threshold_for_its_scores(tmp_path: Path) -> None:
    world = World(tmp_path, [], kind="policynet")
    rng = random.Random(3)
    good = [rng.random() < 0.6 for _ in range(300)]
    drafted = [
        replace(one, draft=call("b" if ok else "a"), draft_version=world.first.version, draft_logprobs=(-rng.random(),))
        for one, ok in zip(logged(300), good, strict=True)
    ]
    write(world.config.log_dir, drafted)
    version = train_scorer("preference", world.config, _quiet())
    assert version.meta["refits"]["threshold"].startswith("policynet, fitted on")
    chosen = world.config.policy.model_copy(update={"scorer": "preference"})
    served = world.config.model_copy(update={"policy": chosen})
    assert PolicyBuilder(served, weights(version)).reason == "fitted with this version"


def _quiet() -> Console:
    return Console(file=io.StringIO())


def _copy(version: ModelVersion, to: Path) -> Path:
    shutil.copytree(version.path, to / version.version)
    return to / version.version
