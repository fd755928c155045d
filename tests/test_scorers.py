"""Scorers by name: the gate first, one file a scorer, and never a score from another version's file."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.engine import Completion, Prompt
from actors.hidden_states import HiddenStates
from actors.rendering import Renderer
from actors.scorer import Scorer
from actors.scorers import (
    SCORERS,
    AgreementScorer,
    DraftScorer,
    EnsembleScorer,
    Evidence,
    Labelled,
    LogprobScorer,
    Proposal,
    build_scorer,
    fit_scorer,
    scorer_file,
    weights_id,
)
from policies.calibration import Calibrator
from policies.errors import BadConfig, StoreError
from policies.preference import pool
from policies.score_maps import Platt
from policies.toolcalls import parse, render
from policies.types import ToolCall
from tests.tiny_model import tiny_model_dir

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "move_slice",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]},
        },
    }
]


def asking(place: str) -> Prompt:
    return Prompt([{"role": "user", "content": f"move slice to {place}"}], TOOLS)


def text(place: str) -> str:
    return render([ToolCall("move_slice", {"to": place})])


def proposal(answer: str, logprob: float = -0.1, valid: bool = True) -> Proposal:
    return Proposal(Completion(answer, (logprob,) * 5, "stop", 5), parse(answer), valid)


def labelled(n: int, seed: int) -> list[Labelled]:
    """Drafts that are right in two of three requests and then surer."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        right = i % 3 > 0
        place, other = rng.permutation(["north", "south", "east"])[:2]
        draft = text(str(place if right else other))
        sure = -rng.exponential(0.1 if right else 0.6)
        rows.append(Labelled(asking(str(place)), [proposal(draft, sure)] * 2, text(str(place))))
    return rows


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with every scorer's file."""
    directory = tiny_model_dir(tmp_path_factory.mktemp("scorers") / "edge")
    (directory / "calibrator.json").write_text(Calibrator.guess().to_json())
    given = Evidence(directory, labelled(30, seed=1), labelled(30, seed=2))
    for kind in ("preference", "agreement", "ensemble"):
        fit_scorer(kind, given)
    return directory


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(version, tmp_path / "copy"))


@pytest.mark.parametrize("kind", sorted(SCORERS))
def test_a_valid_draft_gets_a_probability_and_an_invalid_one_exactly_nought(version: Path, kind: str) -> None:
    drafts = [proposal(text("north")), proposal("<tool_call>{", valid=False), proposal(text("south"))]
    scores = build_scorer(kind, version).score(asking("north"), drafts).scores
    assert scores.shape == (3,)
    assert scores[1] == 0.0
    assert ((scores[[0, 2]] > 0) & (scores[[0, 2]] < 1)).all()


@pytest.mark.parametrize("kind", sorted(SCORERS))
def test_drafts_that_are_all_invalid_all_score_nought(version: Path, kind: str) -> None:
    drafts = [proposal(text("north"), valid=False)] * 2
    assert build_scorer(kind, version).score(asking("north"), drafts).scores.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["logprob", "ensemble"])
def test_a_draft_without_logprobs_is_nothing_known(version: Path, kind: str) -> None:
    silent = Proposal(Completion(text("north"), (), "stop", 0), parse(text("north")), True)
    assert build_scorer(kind, version).score(asking("north"), [silent]).scores.tolist() == [0.0]


def test_the_logprob_scorer_is_the_versions_calibrator() -> None:
    calibrator = Calibrator.guess()
    odds = LogprobScorer(Scorer(calibrator)).raw(asking("north"), [proposal("x", -0.3), proposal("x", -0.1)])
    assert odds[1] > odds[0]
    assert 1 / (1 + math.exp(-odds[0])) == pytest.approx(math.exp(-0.3 * 5))


class _Fixed:
    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def raw(self, prompt: Prompt, proposals: Sequence[Proposal]) -> np.ndarray:
        return np.array(self._values)


def test_the_best_draft_is_valid_and_the_first_of_equals() -> None:
    drafts = [proposal("a", valid=False), proposal("b"), proposal("c")]
    for raw, expected in (([9.0, 0.4, 0.4], 1), ([9.0, -math.inf, 0.1], 2), ([9.0, -math.inf, -math.inf], 1)):
        assert DraftScorer("fixed", _Fixed(raw), Platt(0.0, 1.0)).score(asking("north"), drafts).best == expected


def test_the_raw_score_decides_where_the_map_is_flat() -> None:
    scored = DraftScorer("fixed", _Fixed([1.0, 2.0]), Platt(0.0, 0.0)).score(asking("north"), [proposal("a")] * 2)
    assert scored.scores[0] == scored.scores[1] and scored.best == 1


def test_agreement_prefers_what_most_drafts_mean(version: Path) -> None:
    drafts = [proposal(text("east")), proposal(text("north")), proposal(text("north"))]
    assert build_scorer("agreement", version).score(asking("north"), drafts).best == 1


def test_the_ensemble_rises_with_its_members_and_knows_nothing_where_one_does() -> None:
    blend = Calibrator((0.0, 0.0), (1.0, 1.0), (1.0, 2.0), 0.5)
    raw = EnsembleScorer([_Fixed([0.0, 1.0, 1.0]), _Fixed([0.0, 0.0, -math.inf])], blend).raw(
        asking("north"), [proposal("a")] * 3
    )
    assert raw[:2] == pytest.approx([0.5, 1.5])
    assert raw[2] == -math.inf


def test_no_member_counts_against_a_draft_in_a_fitted_ensemble(version: Path) -> None:
    blend = json.loads(json.loads(scorer_file(version, "ensemble").read_text())["blend"])
    assert min(blend["weights"]) >= 0.0 and blend["samples"] == 60


def test_hidden_states_do_not_depend_on_the_company_a_draft_is_scored_in(version: Path) -> None:
    states = HiddenStates(version)
    alone = states.pooled(asking("north"), [text("north")])
    together = states.pooled(asking("north"), [text("south") * 3, text("north"), ""])
    assert together.shape == (3, 2 * states.width)
    assert together[1] == pytest.approx(alone[0], abs=1e-4)


def test_hidden_states_see_the_question(version: Path) -> None:
    states = HiddenStates(version)
    north, south = (states.pooled(asking(place), [text("north")])[0] for place in ("north", "south"))
    assert np.abs(north - south).max() > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "olmo2"])
def test_any_familys_decoder_gives_the_states_a_quarter_up(copy: Path, family: str) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **sizes, intermediate_size=128, vocab_size=420, bos_token_id=0, eos_token_id=1, pad_token_id=0
    )
    whole: Any = AutoModelForCausalLM.from_config(config).eval()
    whole.save_pretrained(copy)
    texts = [text("south") * 3, text("north")]
    found = HiddenStates(copy).pooled(asking("north"), texts)
    renderer, norms = Renderer(copy, context=1024), ("norm", "ln_f", "final_layer_norm")
    asked, end = renderer.render(Prompt(asking("north").messages), 0), renderer.tokenizer.eos_token_id
    decoder = whole.get_decoder()
    norm = next(getattr(decoder, name) for name in norms if hasattr(decoder, name))
    for row, answer in zip(found, texts, strict=True):
        ids = torch.tensor([[*asked, *renderer.tokenizer(answer).input_ids, end]])
        with torch.no_grad():
            states = norm(decoder(ids, output_hidden_states=True).hidden_states[2])[0, len(asked) :]
        assert row == pytest.approx(pool(states.double().numpy()), abs=1e-4)


def test_a_prompt_longer_than_the_models_context_is_cut_not_refused(version: Path) -> None:
    long = Prompt([{"role": "user", "content": "move slice " * 300}])
    assert np.isfinite(HiddenStates(version).pooled(long, [text("north")])).all()


def test_an_unknown_kind_is_refused_with_the_known_ones(version: Path) -> None:
    with pytest.raises(BadConfig, match="agreement, ensemble, logprob, preference"):
        build_scorer("oracle", version)
    with pytest.raises(BadConfig, match="logprob"):
        fit_scorer("logprob", Evidence(version, [], []))


@pytest.mark.parametrize("kind", ["preference", "agreement", "ensemble"])
def test_a_file_fitted_on_other_weights_is_refused_and_says_so(copy: Path, kind: str) -> None:
    other = tiny_model_dir(copy.parent / "other", seed=1)
    shutil.copy(other / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(StoreError, match="other weights"):
        build_scorer(kind, copy)


SPOILS: dict[str, Callable[[dict[str, object]], object]] = {
    "not a": lambda data: [],
    "not a preference": lambda data: {**data, "head": {}},
    "fit it again": lambda data: {**data, "reads": "mean and last"},
    "score map": lambda data: {**data, "map": '{"map": "spline"}'},
    "of kind 'agreement'": lambda data: {**data, "scorer": "agreement"},
}


@pytest.mark.parametrize("said", sorted(SPOILS))
def test_a_broken_file_is_a_store_error_that_names_it(copy: Path, said: str) -> None:
    path = scorer_file(copy, "preference")
    path.write_text(json.dumps(SPOILS[said](json.loads(path.read_text()))))
    with pytest.raises(StoreError, match=said) as caught:
        build_scorer("preference", copy)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_store_error(copy: Path) -> None:
    scorer_file(copy, "agreement").unlink()
    with pytest.raises(StoreError, match=r"scorer_agreement\.json"):
        build_scorer("agreement", copy)


def test_an_ensemble_of_other_members_is_refused_by_their_names(copy: Path) -> None:
    path = scorer_file(copy, "ensemble")
    path.write_text(path.read_text().replace('\\"agreement\\"', '\\"astrology\\"'))
    with pytest.raises(StoreError, match="astrology"):
        build_scorer("ensemble", copy)


def test_a_head_for_a_wider_model_is_refused(copy: Path) -> None:
    path = scorer_file(copy, "preference")
    data = json.loads(path.read_text())
    from policies.preference import Head

    wide = Head(np.zeros(6), np.ones(6), ((np.ones((6, 1)), np.zeros(1)),))
    path.write_text(json.dumps({**data, "head": wide.to_dict()}))
    with pytest.raises(StoreError, match="reads 6 numbers, the model gives 128"):
        build_scorer("preference", copy)


def test_nothing_to_learn_from_is_refused_and_leaves_the_old_file(copy: Path) -> None:
    before = scorer_file(copy, "agreement").read_bytes()
    for kind in ("preference", "agreement", "ensemble"):
        with pytest.raises(ValueError, match="0"):
            fit_scorer(kind, Evidence(copy, [], []))
    assert scorer_file(copy, "agreement").read_bytes() == before


def test_few_labels_leave_the_parents_map_nearly_as_it_was(copy: Path) -> None:
    old = build_scorer("agreement", copy).map
    wrong = [Labelled(asking("north"), [proposal(text("east"))], text("north")) for _ in range(3)]
    fit_scorer("agreement", Evidence(copy, [], wrong, prior=old))
    raw = AgreementScorer().raw(asking("north"), [proposal(text("east"))])
    shrunk, before = build_scorer("agreement", copy).map.predict(raw), old.predict(raw)
    fit_scorer("agreement", Evidence(copy, [], wrong))
    assert build_scorer("agreement", copy).map.predict(raw) < shrunk < before


def test_the_checksum_follows_the_weights_and_nothing_else(copy: Path) -> None:
    before = weights_id(copy)
    (copy / "notes.txt").write_text("x")
    assert weights_id(copy) == before
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert weights_id(copy) != before
