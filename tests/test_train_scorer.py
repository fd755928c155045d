"""From a log to a scorer that is published with its weights, served, and forgotten when others come."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from edge_fakes import MOVE, NORTH, SOUTH, FakeEngine, NodeKit, ask
from rich.console import Console
from tiny_model import tiny_model_dir

from actors.drafting import DraftOptions
from actors.edge_node import NodeOptions
from actors.engine import Prompt
from actors.log_record import OffloadRecord
from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import OffloadLog
from actors.scorer import Proposal, Scored, Scorer
from orchestrator.config import Config, default_config
from orchestrator.refit import MIN_LABELLED
from orchestrator.rules import next_scorer, scorer
from orchestrator.train_scorer import labelled, same_weights, train_scorer
from policies.calibration import Calibrator
from policies.errors import BadConfig, StoreError
from policies.toolcalls import compact
from policies.types import Reason


def answered(n: int, version: str, right: bool) -> OffloadRecord:
    """A draft and the cloud's word on it; wrong drafts are unsure ones."""
    question = [{"role": "user", "content": f"move slice {n} {'north' if right else 'over there'}"}]
    return OffloadRecord(
        time_us=n + 1,
        request_id=str(n),
        request_hash=f"{n:032x}",
        messages=compact(question),
        tools=compact([MOVE]),
        draft=NORTH,
        draft_logprobs=(-0.01,) * 6 if right else (-1.5, *(-0.1,) * 5),
        draft_version=version,
        propensity=1.0,
        cloud=NORTH if right else SOUTH,
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, ModelVersion]:
    """A configuration whose store holds one version and whose log holds enough to learn from."""
    config = default_config(var=tmp_path_factory.mktemp("var"), policy={"scorer": "preference"})
    source = tiny_model_dir(config.var / "tiny", 1)
    (source / "calibrator.json").write_text(Calibrator.guess().to_json())
    version = ModelStore(config.store_dir).publish(source)
    rng, log = random.Random(0), OffloadLog(config.log_dir, "s")
    for n in range(2 * MIN_LABELLED):
        log.append(answered(n, version.version, rng.random() < 0.6))
    assert log.flush()
    log.close()
    return config, version


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.mark.parametrize("kind", ["preference", "ensemble"])
def test_a_fitted_scorer_is_published_with_the_weights_and_served(
    system: tuple[Config, ModelVersion], kind: str
) -> None:
    config, parent = system
    made = train_scorer(kind, config, quiet())
    assert parent.version in same_weights(ModelStore(config.store_dir), made)
    chosen = config.model_copy(update={"policy": config.policy.model_copy(update={"scorer": kind})})
    rater = scorer(chosen, made.path).rater
    assert rater is not None
    from policies.toolcalls import parse

    whole = FakeEngine().logprobs
    drafts = [Proposal(replace_text(text, whole), parse(text), True) for text in (NORTH, SOUTH)]
    scores = rater.score(Prompt([{"role": "user", "content": "move slice 3 north"}], [MOVE]), drafts).scores
    assert ((scores > 0) & (scores < 1)).all()


def replace_text(text: str, logprobs: tuple[float, ...]):  # type: ignore[no-untyped-def]
    from actors.engine import Completion

    return Completion(text, logprobs, "stop", len(logprobs))


def test_a_scorer_that_was_never_fitted_says_how_to_and_new_weights_go_on_without(
    system: tuple[Config, ModelVersion],
) -> None:
    config, parent = system
    with pytest.raises(StoreError, match="netgpt train scorer preference"):
        scorer(config, parent.path)
    assert next_scorer(config, parent.path).rater is None


def test_too_few_answers_are_refused_with_their_number(tmp_path: Path, system: tuple[Config, ModelVersion]) -> None:
    config = system[0].model_copy(update={"log": system[0].log.model_copy(update={"dir": tmp_path / "empty"})})
    with pytest.raises(BadConfig, match=rf"0 drafts .* {MIN_LABELLED} are needed\. Fix"):
        train_scorer("preference", config, quiet())


def logged(system: tuple[Config, ModelVersion], directory: Path, records: Sequence[OffloadRecord]) -> Config:
    """The system with another log."""
    log = OffloadLog(directory, "s")
    for record in records:
        log.append(record)
    assert log.flush()
    log.close()
    return system[0].model_copy(update={"log": system[0].log.model_copy(update={"dir": directory})})


@pytest.mark.parametrize("right", [True, False])
def test_answers_that_are_all_right_or_all_wrong_publish_no_scorer(
    tmp_path: Path, system: tuple[Config, ModelVersion], right: bool
) -> None:
    config, version = system
    alike = [answered(n, version.version, right) for n in range(2 * MIN_LABELLED)]
    store = ModelStore(config.store_dir)
    before = store.list("edge")
    word = "right" if right else "wrong"
    with pytest.raises(BadConfig, match=rf"all {len(alike)} labelled drafts are {word}: nothing tells .*Fix"):
        train_scorer("preference", logged(system, tmp_path, alike), quiet())
    assert store.list("edge") == before


@pytest.mark.parametrize("propensity", [-1.0, math.nan, 1e-320, 2.0])
def test_a_record_that_makes_no_sense_is_not_learnt_from_and_named(
    tmp_path: Path, system: tuple[Config, ModelVersion], propensity: float
) -> None:
    version, shown = system[1].version, Console(file=io.StringIO(), width=200)
    sensible = [answered(n, version, True) for n in range(MIN_LABELLED - 1)]
    config = logged(system, tmp_path, [*sensible, replace(answered(99, version, False), propensity=propensity)])
    with pytest.raises(BadConfig, match=rf"^{MIN_LABELLED - 1} drafts of these weights"):
        train_scorer("preference", config, shown)
    assert isinstance(shown.file, io.StringIO)
    assert "make no sense are left out, 1 in all: propensity must lie in" in shown.file.getvalue()


def test_without_a_version_there_is_nothing_to_fit_for(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"no edge version.*Fix: run netgpt serve"):
        train_scorer("preference", default_config(var=tmp_path), quiet())


def test_only_valid_drafts_of_that_version_are_learnt_from() -> None:
    good = answered(1, "v", True)
    others = [replace(good, draft_version="w"), replace(good, draft_error="bad"), replace(good, cloud=None)]
    assert len(labelled([good, *others], {"v"})) == 1


class Picky:
    """Likes the second draft."""

    def score(self, prompt: Prompt, proposals: list[Proposal]) -> Scored:
        import numpy as np

        return Scored(np.array([0.2, 0.9][: len(proposals)]), len(proposals) - 1)


async def test_a_rater_chooses_among_drafts_and_no_draft_is_abandoned_for_its_log_probabilities() -> None:
    options = NodeOptions(audit_rate=0.0, drafting=DraftOptions(samples=2))
    kit = NodeKit(FakeEngine(), options=options)
    kit.node._drafter._scorers.add(kit.edge.version, Scorer(Calibrator.guess(), rater=Picky()))  # type: ignore[arg-type]
    answer = await kit.node.answer(ask())
    assert (answer.reason, answer.decision.score) == (Reason.SCORE_PASSED, 0.9)
    assert kit.edge.asked[0][1].watch is None
