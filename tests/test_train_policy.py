"""From a log to a policy file, by gradient and by PPO, and what a log that says too little is told."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_soft_gate import GRID, OBJECTIVE, requests

from actors.offload_log import OffloadLog, OffloadRecord
from cluster.options import RayOptions
from orchestrator.config import Config
from orchestrator.train_policy import Source, from_log, train_policy
from policies.errors import BadConfig, LogError
from policies.policy_file import load_policy
from policies.types import LinkState, Prices, Reason, Route

CONFIG = Config(
    prices=Prices(0.0005, 0.3, 0.03, 1.5),
    ray=RayOptions(dashboard_port=0, temp_dir=Path("/tmp/netgpt-test"), num_cpus=2),
)
CONFIG = CONFIG.model_copy(update={"policy": CONFIG.policy.model_copy(update={"objective": OBJECTIVE})})
SOURCE = Source(requests(1500, 3), GRID[::5], "edge-2")
RIGHT, WRONG = "It is 4.", "It is 5."


def records(n: int, version: str = "edge-2", audit: float = 0.5, seed: int = 0) -> list[OffloadRecord]:
    """Answered requests; below 0.6 the cloud was asked, above it ``audit`` of the drafts were audited."""
    random = np.random.default_rng(seed)
    made = []
    for index, score in enumerate(random.beta(2.0, 1.2, n)):
        offloaded = score < 0.6
        labelled = offloaded or random.random() < audit
        made.append(
            OffloadRecord(
                time_us=index + 1,
                request_id=f"{version}-{index}",
                request_hash=str(index),
                messages="[]",
                draft=RIGHT if random.random() < score else WRONG,
                draft_version=version,
                score=float(score),
                prices=CONFIG.prices,
                link=LinkState(float(random.uniform(10, 300)), 5e6, 2e7),
                route=Route.CLOUD if offloaded else Route.EDGE,
                reason=Reason.SCORE_BELOW if offloaded else Reason.SCORE_PASSED,
                propensity=1.0 if offloaded else audit,
                cloud=RIGHT if labelled else None,
                prompt_tokens=900,
                draft_tokens=60,
            )
        )
    return made


def write(root: Path, logged: Sequence[OffloadRecord]) -> Path:
    log = OffloadLog(root, "here")
    for record in logged:
        log.append(record)
    log.close()
    return root


@pytest.mark.parametrize("kind", ["optimal", "funcdyn", "policynet"])
def test_the_file_that_is_written_is_the_policy_and_earns_what_the_table_says(kind: str, tmp_path: Path) -> None:
    out, shown = tmp_path / "policy.json", io.StringIO()
    trained = train_policy(SOURCE, CONFIG, out, kind=kind, console=Console(file=shown, width=120))  # type: ignore[arg-type]
    assert load_policy(out, "edge-2") == trained.policy
    fixed, _, ours, oracle = trained.figures.values()
    assert fixed < ours
    assert ours <= oracle or kind == "optimal"  # which looks at the request, the oracle at the state alone
    assert "best fixed" in shown.getvalue() and f"{1e3 * ours:.1f}" in shown.getvalue()
    said = json.loads(out.read_text())["fitted"]
    assert said["requests"] == 1500 and said["objective"]["value_usd"] == OBJECTIVE.value_usd
    assert said["utility_per_value"]["per-state oracle"] == oracle


def test_a_log_becomes_its_labelled_requests_weighted_by_what_they_stand_for(tmp_path: Path) -> None:
    logged = records(300)
    source = from_log(write(tmp_path / "log", logged), 0.97)
    labelled = [record for record in logged if record.labelled]
    assert source.score_version == "edge-2"
    assert source.outcomes.score.tolist() == [record.score for record in labelled]
    assert source.outcomes.edge_right.tolist() == [float(record.draft == RIGHT) for record in labelled]
    assert source.outcomes.weights.tolist() == [1 / record.propensity for record in labelled]
    assert set(source.outcomes.cloud_right) == {0.97}


def test_only_the_newest_versions_scores_are_learnt_from(tmp_path: Path) -> None:
    old, new = records(200, "edge-1"), [replace(r, time_us=r.time_us + 1000) for r in records(150, seed=1)]
    source = from_log(write(tmp_path / "log", [*old, *new]), 0.97)
    assert source.score_version == "edge-2"
    assert len(source.outcomes) == sum(record.labelled for record in new)


def test_a_rare_audit_does_not_count_without_bound(tmp_path: Path) -> None:
    rare = [replace(record, propensity=0.001, cloud=RIGHT) for record in records(100)]
    assert from_log(write(tmp_path / "log", rare), 0.97).outcomes.weights.max() == 20.0


def test_an_invalid_draft_scores_nothing(tmp_path: Path) -> None:
    broken = [replace(record, draft_error="no such tool", cloud=RIGHT) for record in records(60)]
    assert not from_log(write(tmp_path / "log", broken), 0.97).outcomes.score.any()


def test_a_whole_log_trains_a_policy(tmp_path: Path) -> None:
    log = write(tmp_path / "log", records(600))
    trained = train_policy(log, CONFIG, tmp_path / "policy.json", kind="funcdyn")
    assert load_policy(tmp_path / "policy.json", "edge-2") == trained.policy


def test_a_log_that_says_too_little_is_told_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    with pytest.raises(LogError, match="no such directory"):
        train_policy(tmp_path / "nowhere", CONFIG, out)
    all_edge = [replace(r, cloud=None, route=Route.EDGE, propensity=0.0) for r in records(200)]
    with pytest.raises(LogError, match=r"holds an answer of the cloud.*audit_rate"):
        train_policy(write(tmp_path / "edge", all_edge), CONFIG, out)
    with pytest.raises(BadConfig, match="at least 50 valid drafts"):
        train_policy(write(tmp_path / "short", records(30)), CONFIG, out)
    one_class = [replace(record, draft=RIGHT, cloud=RIGHT) for record in records(200)]
    with pytest.raises(BadConfig, match="nothing tells good scores from bad"):
        train_policy(write(tmp_path / "right", one_class), CONFIG, out)
    absurd = [replace(record, link=LinkState(-5.0, 1e6, 1e6)) for record in records(100)]
    with pytest.raises(LogError, match=r"make no sense are left out, 100 in all: link\.rtt_ms.*Fix"):
        train_policy(write(tmp_path / "absurd", absurd), CONFIG, out)
    assert not out.exists()


def test_ppo_trains_no_funcdyn(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="method ppo trains kind policynet"):
        train_policy(SOURCE, CONFIG, tmp_path / "policy.json", method="ppo", kind="funcdyn")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ppo_runs_for_real_and_the_table_has_every_rule(tmp_path: Path) -> None:
    import ray

    trained = train_policy(SOURCE, CONFIG, tmp_path / "policy.json", method="ppo", iterations=2)
    fixed, *_, gate, searched, best = trained.coupled.values()
    assert min(searched, best) > max(fixed, gate)
    assert load_policy(tmp_path / "policy.json", "edge-2") == trained.policy
    assert not ray.is_initialized()
