"""Training and evaluation on a tiny model: it learns, it stays, it saves what an engine can load."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.evaluator import Evaluator
from actors.rendering import Renderer
from actors.samples import SampleEncoder, collate
from actors.trainer import Trainer, load_model
from actors.training import Draft, Sample, TrainConfig, TrainingJob, TrainingOutcome, run_job
from policies.calibration import Calibrator
from policies.errors import EngineError

TOOL = {
    "type": "function",
    "function": {"name": "move", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}},
}
CONFIG = TrainConfig(steps=60, variants=8, batch_size=8, lr=5e-3, max_new_tokens=32, anchor_batch=2, anchor_weight=0.5)


def ask(text: str, answer: str = "", weight: float = 1.0) -> Sample:
    return Sample([{"role": "user", "content": text}], [TOOL], answer, weight)


def call(place: str) -> str:
    return f'<tool_call>{{"name":"move","arguments":{{"to":"{place}"}}}}</tool_call>'


LABELS = [ask(f"slice {n} to {place}", call(place)) for n in range(12) for place in ("a", "b")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_model_dir(tmp_path_factory.mktemp("base"))
    (directory / "calibrator.json").write_text(Calibrator.guess().to_json())
    return directory


@pytest.fixture(scope="module")
def job(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    (own,) = Evaluator(base, CONFIG).answer([ask("hello")])
    assert own is not None
    return TrainingJob(
        base_dir=str(base),
        work_dir=str(tmp_path_factory.mktemp("work")),
        labels=LABELS,
        questions=[ask("hello", own.text)],
        trials=[ask("slice 3 to a"), ask("slice 99 to b"), ask("x " * 2000)],
        drift=[ask("hello", own.text)],
        config=CONFIG,
    )


@pytest.fixture(scope="module")
def outcome(job: TrainingJob) -> TrainingOutcome:
    return run_job(job)


def test_a_round_teaches_the_answers_and_what_they_have_in_common(outcome: TrainingOutcome) -> None:
    before, after = outcome.base[:2], outcome.candidate[:2]
    assert [draft.text for draft in after if draft] == [call("a"), call("b")]
    assert not {draft.text for draft in before if draft} & {call("a"), call("b")}
    assert outcome.figures["nll"] < 0.2 and 0 < outcome.drift_nats < 0.1


def test_a_prompt_that_does_not_fit_has_no_draft(outcome: TrainingOutcome) -> None:
    assert outcome.base[2] is None and outcome.candidate[2] is None


def test_the_candidate_directory_loads_like_the_base_and_leaves_its_calibrator_behind(
    outcome: TrainingOutcome, base: Path
) -> None:
    candidate = Path(outcome.candidate_dir)
    assert {path.name for path in base.iterdir()} - {path.name for path in candidate.iterdir()} == {"calibrator.json"}
    old, new = (load_file(path / "model.safetensors") for path in (base, candidate))
    assert {name: (t.shape, t.dtype) for name, t in old.items()} == {
        name: (t.shape, t.dtype) for name, t in new.items()
    }
    AutoModelForCausalLM.from_pretrained(candidate)
    assert AutoTokenizer.from_pretrained(candidate).chat_template == AutoTokenizer.from_pretrained(base).chat_template


def test_drafts_are_those_of_the_reference_implementation(outcome: TrainingOutcome, job: TrainingJob) -> None:
    """Batched and padded here, alone and unpadded in transformers' generate."""
    directory = Path(outcome.candidate_dir)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    encoder = SampleEncoder(directory, 1024)
    for sample, draft in zip(job.trials[:2], outcome.candidate, strict=False):
        prompt = torch.tensor([encoder.prompt(sample, 1)])
        out = model.generate(
            prompt, max_new_tokens=32, do_sample=False, return_dict_in_generate=True, output_logits=True,
            pad_token_id=0,
        )  # fmt: skip
        tokens = out.sequences[0, prompt.shape[1] :]
        assert draft and encoder.tokenizer.decode(tokens, skip_special_tokens=True) == draft.text
        reference = [logits.float().log_softmax(-1)[0, t].item() for t, logits in zip(tokens, out.logits, strict=True)]
        assert draft.logprobs == pytest.approx(reference, abs=0.05)


def test_the_anchor_holds_the_model_where_it_was(base: Path, tmp_path: Path) -> None:
    """The same labels with and without: held to its old answers the model drifts less on them."""
    kept = [ask(f"status of {n}", "now then select") for n in range(8)]
    drifts = []
    for weight in (0.0, 2.0):
        trainer = Trainer(base, replace(CONFIG, anchor_weight=weight, anchor_batch=8, steps=25))
        trainer.fit(LABELS, kept, lambda figures: None)
        trainer.save(tmp_path / str(weight))
        drifts.append(Evaluator(tmp_path / str(weight), CONFIG).drift(Evaluator(base, CONFIG), kept))
    assert drifts[1] < drifts[0] / 2


def test_the_same_seed_gives_the_same_weights(job: TrainingJob, tmp_path: Path) -> None:
    for name in ("one", "two"):
        trainer = Trainer(Path(job.base_dir), replace(CONFIG, steps=3))
        trainer.fit(LABELS, [], lambda figures: None)
        trainer.save(tmp_path / name)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("variants", "versions"), [(32, 2), (1, 1)])
def test_no_more_versions_are_made_than_the_steps_can_draw(
    job: TrainingJob, tmp_path: Path, variants: int, versions: int
) -> None:
    config = replace(CONFIG, steps=6, batch_size=8, anchor_batch=1, variants=variants)  # 48 draws from 24 labels
    own = Evaluator(Path(job.base_dir), config).answer(LABELS[:3])
    questions = [replace(asked, answer=draft.text) for asked, draft in zip(LABELS, own, strict=False) if draft]
    figures = run_job(replace(job, work_dir=str(tmp_path), questions=questions, trials=[], config=config)).figures
    assert (figures["samples"], figures["kept"], figures["anchors"]) == (versions * len(LABELS), 3, versions * 3)


def test_a_time_limit_ends_a_run_and_progress_is_told(base: Path) -> None:
    told: list[dict[str, float]] = []
    figures = Trainer(base, replace(CONFIG, steps=100_000, time_limit_s=0.3)).fit(LABELS, [], told.append)
    assert told and told[-1] == figures
    assert figures["step"] == figures["steps"] < 1000 and figures["seconds"] < 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_step_in_many_passes_is_the_step_in_one(base: Path, method: Literal["full", "lora"]) -> None:
    """Down to a sample a pass, of odd lengths, with weights that differ."""
    labels = [ask("slice " * (1 + n % 5), call("a" * (1 + n % 3)), 1.0 + n) for n in range(12)]
    told = []
    for batch_tokens in (100_000, 1):
        config = replace(CONFIG, steps=3, anchor_batch=5, batch_tokens=batch_tokens, method=method)
        trainer = Trainer(base, config)
        figures = trainer.fit(labels, LABELS, lambda figures: None)
        told.append([figures[name] for name in ("loss", "nll", "kl")])
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    assert told[0][2] > 0, "the anchors count"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_is_cut_ends_as_if_it_had_not_been(
    base: Path, tmp_path: Path, method: Literal["full", "lora"]
) -> None:
    config = replace(CONFIG, steps=12, method=method, checkpoint_s=0.0)
    for name, cut in (("whole", False), ("cut", True)):
        checkpoint = tmp_path / f"{name}.pt"
        if cut:
            with pytest.raises(KeyboardInterrupt):
                Trainer(base, config).fit(LABELS, LABELS[:5], interrupted, checkpoint)
        trainer = Trainer(base, config)
        figures = trainer.fit(LABELS, LABELS[:5], lambda figures: None, checkpoint)
        assert figures["step"] == 12
        trainer.save(tmp_path / name)
    (one,), (two,) = (list((tmp_path / name).glob("*.safetensors")) for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


def interrupted(_figures: dict[str, float]) -> None:
    raise KeyboardInterrupt


def test_a_checkpoint_of_another_model_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "supervised.pt"
    Trainer(base, replace(CONFIG, steps=1)).fit(LABELS, [], lambda figures: None, checkpoint)
    with pytest.raises(EngineError, match=r"supervised\.pt: .*Fix: remove it"):
        Trainer(base, replace(CONFIG, method="lora")).fit(LABELS, [], lambda figures: None, checkpoint)


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_run(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, limits = Trainer(base, replace(CONFIG, steps=2)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        figures = trainer.fit(LABELS, [], lambda figures: None, tmp_path / "supervised.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert figures["step"] == 2 and "no checkpoint was written" in caplog.text
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_learnt_from_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="none of 1 samples"):
        Trainer(base, CONFIG).fit([ask("x " * 2000, "y")], [], lambda figures: None)
    with pytest.raises(EngineError, match="nowhere"):
        Trainer(tmp_path / "nowhere", CONFIG)


def test_only_answer_tokens_count_and_padding_changes_nothing(base: Path) -> None:
    encoder = SampleEncoder(base, 1024)
    encoded = encoder.encode_all([ask("a", "to", 2.0), ask("a much longer question than the other", "from with")])
    batch = collate(encoded, "cpu")
    lengths = [len(e.ids) - e.start for e in encoded]
    assert batch.targets.tolist() == [t for e in encoded for t in e.ids[e.start :]]
    assert batch.weights.tolist() == [2.0] * lengths[0] + [1.0] * lengths[1]
    assert all(e.ids[-1] == encoder.tokenizer.eos_token_id for e in encoded)
    model = load_model(base, "cpu", torch.float32)
    alone, padded = (model(b.ids).logits[0] for b in (collate(encoded[:1], "cpu"), batch))
    assert torch.allclose(alone, padded[: len(alone)], atol=1e-5)


def test_training_reads_the_prompt_the_engines_read(base: Path) -> None:
    sample = LABELS[0]
    rendered = Renderer(base, 1024)
    (encoded,) = SampleEncoder(base, 1024).encode_all([sample])
    text = rendered.tokenizer.decode(encoded.ids)
    assert text.endswith(f"<|assistant|>{sample.answer}<|end|>") and "move(" in text


def test_drift_from_itself_is_nothing(base: Path) -> None:
    evaluator = Evaluator(base, CONFIG)
    assert evaluator.drift(evaluator, LABELS[:3]) == pytest.approx(0, abs=1e-6)
    assert evaluator.drift(evaluator, []) == 0


def test_jobs_and_outcomes_survive_their_files(job: TrainingJob, tmp_path: Path) -> None:
    moved = replace(job, work_dir=str(tmp_path))
    assert TrainingJob.load(moved.save()) == moved
    outcome = TrainingOutcome("d", [None, Draft("t", [-0.5])], [None, None], 0.1, {"a": 1.0})
    assert TrainingOutcome.from_json(outcome.to_json()) == outcome
