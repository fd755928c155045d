"""Training an adapter: only it changes, it is saved apart from its base, and every engine answers with both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_kit import ASK, GREEDY, SETTINGS
from safetensors.torch import load_file, save_file
from test_trainer import CONFIG, LABELS, ask, call
from tiny_model import tiny_model_dir

from actors.adapter_base import ADAPTER_FILE, BASE_FILE, base_of, write_base
from actors.build import build_engine
from actors.engine import Generation
from actors.lora import LORA_ABOVE, trained, uses_lora
from actors.model_store import ModelStore, ModelVersion, digests, verify
from actors.samples import answer_logits, collate
from actors.trainer import Trainer, load_model
from actors.training import TrainConfig, TrainingJob, TrainingOutcome, run_job
from actors.weights import read_shapes, read_tensors
from orchestrator.config import BUNDLED
from orchestrator.own_threshold import scores_id
from policies.calibration import Calibrator
from policies.errors import EngineError, StoreError

# Learns with every seed tried; the time limit is for whatever else the machine does.
LORA = replace(CONFIG, steps=200, method="lora", lora_rank=4, lr=1e-2, time_limit_s=900.0)
ANCHORS = [ask("hello", "to from with")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    root = tmp_path_factory.mktemp("lora")
    directory = tiny_model_dir(root / "base")
    (directory / "calibrator.json").write_text(Calibrator.guess().to_json())
    store = ModelStore(root / "store")
    store.publish(directory)
    return store


@pytest.fixture(scope="module")
def base(store: ModelStore) -> ModelVersion:
    return store.list()[0]


@pytest.fixture(scope="module")
def outcome(base: ModelVersion, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    trials = [ask("slice 3 to a"), ask("slice 99 to b")]
    work = str(tmp_path_factory.mktemp("work"))
    return run_job(TrainingJob(str(base.path), work, LABELS, ANCHORS, trials, ANCHORS, LORA))


@pytest.fixture(scope="module")
def adapter(store: ModelStore, base: ModelVersion, outcome: TrainingOutcome) -> ModelVersion:
    directory = Path(outcome.candidate_dir)
    shutil.copy(base.path / "calibrator.json", directory)
    return store.publish(directory, parent=base.version)


def test_an_adapter_learns_what_all_weights_would(outcome: TrainingOutcome) -> None:
    assert [draft.text for draft in outcome.candidate if draft] == [call("a"), call("b")]
    assert not {draft.text for draft in outcome.base if draft} & {call("a"), call("b")}


def test_a_step_changes_only_the_adapter_and_the_base_stays_bit_identical(base: ModelVersion) -> None:
    trainer = Trainer(base.path, replace(LORA, steps=3))
    before = {name: tensor.clone() for name, tensor in trainer._model.state_dict().items()}
    trainer.fit(LABELS, ANCHORS, lambda figures: None)
    after = trainer._model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)
    assert {name for name in before if "lora_B" in name} <= changed
    assert sum(p.numel() for p in trained(trainer._model)) < sum(p.numel() for p in trainer._model.parameters()) / 4


def test_the_frozen_base_is_the_prior(base: ModelVersion) -> None:
    trainer = Trainer(base.path, replace(LORA, steps=20))
    trainer.fit(LABELS, ANCHORS, lambda figures: None)
    batch = collate(trainer._encoder.encode_all(LABELS[:4]), "cpu")
    with torch.no_grad(), trainer._tuned.prior() as model:
        prior = answer_logits(model, batch)
    with torch.no_grad():
        now = answer_logits(trainer._model, batch)
        reference = answer_logits(load_model(base.path, "cpu", torch.float32), batch)
    assert torch.equal(prior, reference) and not torch.allclose(now, prior, atol=0.1)
    assert any(p.requires_grad for p in trainer._model.parameters())


def test_merged_weights_give_the_logits_of_base_and_adapter(base: ModelVersion, tmp_path: Path) -> None:
    whole = tmp_path / "base"  # in float32, so that merging rounds nothing
    load_model(base.path, "cpu", torch.float32).save_pretrained(whole)
    for file in base.path.glob("*token*"):
        shutil.copy(file, whole)
    shutil.copy(base.path / "chat_template.jinja", whole)
    trainer = Trainer(whole, replace(LORA, steps=20))
    trainer.fit(LABELS, ANCHORS, lambda figures: None)
    trainer.save(tmp_path / "adapter")
    batch = collate(trainer._encoder.encode_all(LABELS[:4]), "cpu")
    with torch.no_grad():
        apart = answer_logits(trainer._model, batch)
        merged = answer_logits(load_model(tmp_path / "adapter", "cpu", torch.float32), batch)
    assert torch.allclose(apart, merged, atol=1e-4)


def test_an_adapter_is_published_beside_its_base_and_is_small(base: ModelVersion, adapter: ModelVersion) -> None:
    assert (adapter.base, adapter.parent) == (base.version, base.version)
    assert not (adapter.path / "model.safetensors").exists()
    verify(adapter.path, adapter.sha256)
    assert read_shapes(adapter.path) == read_shapes(base.path)
    sizes = [sum(file.stat().st_size for file in v.path.glob("*.safetensors")) for v in (base, adapter)]
    assert sizes[1] < sizes[0] / 2  # a rank of 4 is not small beside 64 columns


def test_what_was_fitted_to_a_candidates_scores_fits_the_published_version(
    outcome: TrainingOutcome, adapter: ModelVersion
) -> None:
    candidate = digests(Path(outcome.candidate_dir))
    assert candidate[BASE_FILE] != adapter.files[BASE_FILE]  # its base lies elsewhere by now
    assert scores_id(candidate, "logprob") == scores_id(adapter.files, "logprob")


def test_a_round_from_an_adapter_goes_on_with_it_over_the_same_base(
    store: ModelStore, base: ModelVersion, adapter: ModelVersion, tmp_path: Path
) -> None:
    trainer = Trainer(adapter.path, replace(LORA, steps=5, lora_rank=16))
    batch = collate(trainer._encoder.encode_all(LABELS[:4]), "cpu")
    with torch.no_grad():
        begun = answer_logits(trainer._model, batch)
    trainer.fit(LABELS, ANCHORS, lambda figures: None)
    with torch.no_grad(), trainer._tuned.prior() as model:
        prior = answer_logits(model, batch)
    trainer.save(tmp_path / "next")
    assert torch.equal(prior, begun)
    second = store.publish(tmp_path / "next", parent=adapter.version)
    assert second.base == base.version
    shapes = [{n: t.shape for n, t in load_file(v.path / ADAPTER_FILE).items()} for v in (adapter, second)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(*(next(iter(load_file(v.path / ADAPTER_FILE).values())) for v in (adapter, second)))


def test_training_may_start_from_another_model_than_the_one_it_is_compared_with(
    base: ModelVersion, adapter: ModelVersion, tmp_path: Path
) -> None:
    job = TrainingJob(str(adapter.path), str(tmp_path), LABELS, trials=LABELS[:2], config=replace(LORA, steps=2))
    made = run_job(replace(job, start_dir=str(base.path)))
    found = base_of(Path(made.candidate_dir))
    assert found and found.path.resolve() == base.path.resolve()
    on = run_job(replace(job, work_dir=str(tmp_path / "on")))
    assert made.base == on.base, "the adapter's answers"
    fresh, further = (load_file(Path(one.candidate_dir) / ADAPTER_FILE) for one in (made, on))
    assert fresh.keys() == further.keys() and any(not torch.equal(fresh[name], further[name]) for name in fresh)


def test_all_weights_can_be_trained_from_an_adapter(adapter: ModelVersion, tmp_path: Path) -> None:
    trainer = Trainer(adapter.path, replace(CONFIG, method="full", steps=1, lr=1e-9))
    trainer.fit(LABELS, [], lambda figures: None)
    trainer.save(tmp_path / "full")
    assert base_of(tmp_path / "full") is None and not (tmp_path / "full" / ADAPTER_FILE).exists()
    merged, saved = dict(read_tensors(adapter.path)), load_file(tmp_path / "full" / "model.safetensors")
    assert all(torch.allclose(merged[name].float(), saved[name].float(), atol=1e-2) for name in merged)


def test_the_method_follows_the_size_unless_it_is_given(base: ModelVersion, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    save_file({"w": torch.zeros(LORA_ABOVE + 1, dtype=torch.int8)}, large / "model.safetensors")
    assert [uses_lora(path, TrainConfig()) for path in (base.path, large)] == [False, True]
    assert uses_lora(base.path, LORA) and not uses_lora(large, TrainConfig(method="full"))
    with pytest.raises(EngineError, match=r"policy_steps train all weights.*Fix"):
        uses_lora(large, TrainConfig(policy_steps=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "transformers"])
async def test_an_engine_swaps_to_an_adapter_and_starts_with_one(
    kind: str, base: ModelVersion, adapter: ModelVersion, tmp_path: Path
) -> None:
    """Both ways give the answers of the merged model; a damaged adapter leaves the old weights live."""
    bfloat16 = replace(SETTINGS, dtype="auto")
    engine, fresh = [await build_engine(kind, v.path, v.version, bfloat16) for v in (base, adapter)]
    try:
        before = await engine.generate(ASK, GREEDY)
        for damage, words in (("torn", "adapter"), ("shape", "shape"), ("nan", "finite"), ("base", "no safetensors")):
            with pytest.raises((EngineError, StoreError), match=words):
                await engine.load(damaged(adapter.path, tmp_path / damage, damage), "bad")
            assert alike(await engine.generate(ASK, GREEDY), before)
        await engine.load(adapter.path, adapter.version)
        swapped, started = await engine.generate(ASK, GREEDY), await fresh.generate(ASK, GREEDY)
        assert alike(swapped, started) and not alike(swapped, before)
        assert swapped.version == adapter.version
        await engine.load(base.path, base.version)
        assert alike(await engine.generate(ASK, GREEDY), before)
    finally:
        await engine.close()
        await fresh.close()


def alike(one: Generation, other: Generation) -> bool:
    """The same words, as surely but for what bfloat16 rounds: a cached prompt takes another way through the kernels."""
    left, right = one.completions[0], other.completions[0]
    return left.text == right.text and left.logprobs == pytest.approx(right.logprobs, abs=0.05)


def damaged(source: Path, target: Path, how: str) -> Path:
    """A copy of an adapter that cannot be loaded, or whose base is gone."""
    shutil.copytree(source, target)
    found, file = base_of(source), target / ADAPTER_FILE
    assert found
    write_base(target, target / "nowhere" if how == "base" else found.path.resolve())
    state = load_file(file)
    name = next(iter(state))
    if how == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "shape":
        save_file({**state, name: torch.zeros(4, 3)}, file)
    elif how == "nan":
        state[name][0, 0] = torch.nan
        save_file(state, file)
    return target


def test_the_bundled_edge_model_learns_a_sites_own_words_from_a_few_labels(tmp_path: Path) -> None:
    """Held-out requests: other slices, the same nicknames of places, which no model can know."""
    places = {"home": "cell-7", "the barn": "cell-3", "downtown": "cell-5"}
    asked = [(f"Move slice {n} to {said}.", call(meant)) for n in range(30, 46) for said, meant in places.items()]
    labels, held_out = asked[:36], asked[36:]
    job = TrainingJob(
        base_dir=str(BUNDLED / "edge"),
        work_dir=str(tmp_path),
        labels=[ask(text, answer) for text, answer in labels],
        trials=[ask(text) for text, _ in held_out],
        config=TrainConfig(
            steps=60, variants=1, batch_size=12, lr=1e-2, method="lora", max_new_tokens=40, time_limit_s=900.0
        ),
    )
    outcome = run_job(job)
    right = [
        sum(draft is not None and draft.text == answer for draft, (_, answer) in zip(drafts, held_out, strict=True))
        for drafts in (outcome.base, outcome.candidate)
    ]
    assert right[0] == 0 and right[1] >= 0.8 * len(held_out), right
