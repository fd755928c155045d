"""Reinforcement learning on a tiny model: it learns what is rewarded, and goes on after a kill as if there was none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.policy_trainer import CHECKPOINT, Judged, PolicyConfig, PolicyTrainer, Work
from actors.samples import Encoded, answer_logits, collate, passes
from actors.shared_prompts import collate_rows, row_logits, rows_of, shares_prompts, width
from actors.trainer import load_model
from policies.errors import EngineError
from policies.losses import forward_kl
from policies.policy_losses import token_logprobs
from policies.prompt_filter import Batch
from tests.tiny_model import tiny_model_dir

CONFIG = PolicyConfig(steps=12, prompts=4, samples=8, max_new_tokens=2, lr=3e-3, warmup=0.0, checkpoint_every=1)
PROMPTS = [[7, 8, 9], [11, 12], [13, 14, 15, 16], [17, 18]]


@dataclass(frozen=True)
class Answer:
    prompt: int
    tokens: Sequence[int]
    text: str


class TorchSampler:
    """Samples token by token from its own copy of the weights; the text is the token numbers."""

    def __init__(self, directory: Path) -> None:
        self.model, self.version = load_model(directory, "cpu", torch.float32), ""

    def sync(self, parameters: Iterable[tuple[str, Tensor]], version: str) -> None:
        self.model.load_state_dict({name: value.detach() for name, value in parameters}, strict=False)
        self.version = version

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], samples: int, temperature: float, max_new_tokens: int, seed: int
    ) -> list[Answer]:
        random, found = torch.Generator().manual_seed(seed), []
        for index, prompt in enumerate(prompts):
            ids = torch.tensor([list(prompt)] * samples)
            for _ in range(max_new_tokens):
                p = (self.model(ids).logits[:, -1] / temperature).softmax(-1)
                ids = torch.cat([ids, torch.multinomial(p, 1, generator=random)], 1)
            for row in ids[:, len(prompt) :].tolist():
                found.append(Answer(index, row, " ".join(map(str, row))))
        return found


def judge(chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
    """A third of all tokens are right and earn 1, a third ask for help and earn a quarter; the cloud is right."""
    first = np.array([[int(text.split()[0]) for text in group] for group in texts])
    right, asked = first % 3 == 0, first % 3 == 1
    return Judged(1.0 * right + 0.25 * asked, Batch(asked, right, np.full(len(chosen), True)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir(tmp_path_factory.mktemp("rl") / "edge")


def train(
    model: Path, work: Path, steps: int | None = None, **changes: object
) -> tuple[PolicyTrainer, list[dict[str, float]]]:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    trainer = PolicyTrainer(model, work, config, TorchSampler(model))
    told: list[dict[str, float]] = []

    def progress(figures: dict[str, float]) -> None:
        told.append(figures)
        if steps is not None and len(told) >= steps:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        trainer.run(Work(PROMPTS, judge), progress)
    return trainer, told


def flat(trainer: PolicyTrainer) -> Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


@pytest.mark.parametrize("estimator", ["gapg", "rloo", "dr_grpo", "grpo"])
def test_it_learns_what_is_rewarded(model: Path, tmp_path: Path, estimator: str) -> None:
    _, told = train(model, tmp_path, estimator=estimator, steps=None, lr=1e-2, prompts=4, samples=32)
    assert np.mean([row["reward"] for row in told[-3:]]) > np.mean([row["reward"] for row in told[:3]]) + 0.1


def test_a_run_that_was_cut_goes_on_to_the_same_weights(model: Path, tmp_path: Path) -> None:
    whole, _ = train(model, tmp_path / "a")
    train(model, tmp_path / "b", steps=5)
    resumed, told = train(model, tmp_path / "b")
    assert told[0]["step"] in (5, 6)  # cut before or after the fifth checkpoint
    assert torch.equal(flat(whole), flat(resumed))


@pytest.mark.parametrize("epochs", [1, 3])
def test_small_forward_passes_add_up_to_the_same_step(model: Path, tmp_path: Path, epochs: int) -> None:
    one, _ = train(model, tmp_path / "a", epochs=epochs)
    many, _ = train(model, tmp_path / "b", epochs=epochs, batch_tokens=12)
    assert torch.allclose(flat(one), flat(many), atol=2e-4)


@pytest.mark.parametrize("answers", [1, 2, 7])
def test_answers_in_one_row_are_worth_what_they_are_in_rows_of_their_own(model: Path, answers: int) -> None:
    """Log-probabilities, targets, weights and gradients, with prompts and answers of many lengths."""
    draw = torch.Generator().manual_seed(answers)
    samples = []
    for length in (1, 9, 30):
        prompt = torch.randint(5, 300, (length,), generator=draw).tolist()
        for number in range(answers):
            answer = torch.randint(5, 300, (1 + 5 * number,), generator=draw).tolist()
            samples.append(Encoded(prompt + answer, length, 1.0 + len(samples)))
    found = []
    for shared in (True, False):
        network = load_model(model, "cpu", torch.float32)
        assert shares_prompts(network)
        rows = rows_of(samples, shared)
        assert len(rows) == (3 if shared else len(samples))
        batches = [collate_rows(part, "cpu") for part in passes(rows, width, 60)]
        told = []
        for batch in batches:
            logprobs = token_logprobs(row_logits(network, batch), batch.targets)
            (logprobs * batch.weights).sum().backward()
            told += list(zip(batch.weights.tolist(), batch.targets.tolist(), logprobs.tolist(), strict=True))
        gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
        found.append((torch.tensor(sorted(told, key=lambda row: row[0])), gradient))  # a weight names its answer
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4 * float(found[1][1].abs().max()))
    assert len(found[0][0]) == sum(len(sample.ids) - sample.start for sample in samples)


def test_a_row_is_never_longer_than_its_bound_unless_one_answer_is() -> None:
    samples = [Encoded([1] * 400 + [2] * 301, 400, 1.0)] * 5 + [Encoded([3] * 2000, 400, 1.0)]
    assert [len(row) for row in rows_of(samples, shared=True)] == [2, 2, 1, 1]


def test_a_model_with_windows_reads_every_answer_in_a_row_of_its_own(model: Path) -> None:
    network = load_model(model, "cpu", torch.float32)
    network.config.layer_types = ["full_attention", "sliding_attention"]
    assert not shares_prompts(network)


def test_products_in_bfloat16_take_nearly_the_same_step_and_the_weights_stay_float32(
    model: Path, tmp_path: Path
) -> None:
    anchors = [Encoded([*prompt, 40, 41], len(prompt), 1.0) for prompt in PROMPTS]
    trained = []
    for name, wanted in (("default", None), ("float32", False), ("bfloat16", True)):
        config = replace(CONFIG, steps=1, forward_weight=0.1, epochs=2, bfloat16=wanted)
        trainer = PolicyTrainer(model, tmp_path / name, config, TorchSampler(model))
        trainer.run(Work(PROMPTS, judge, anchors), lambda _: None)
        assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
        trained.append(flat(trainer))
    default, single, half = trained
    assert torch.equal(default, single) and not torch.equal(half, single)
    start = torch.cat([p.detach().flatten() for p in load_model(model, "cpu", torch.float32).parameters()])
    assert torch.cosine_similarity(half - start, single - start, dim=0) > 0.9


def test_a_budget_that_covers_nothing_teaches_nothing(model: Path, tmp_path: Path) -> None:
    def nothing_right(chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
        found = judge(chosen, texts)
        return Judged(found.rewards, replace(found.outcome, right=np.zeros_like(found.outcome.right)))

    trainer = PolicyTrainer(model, tmp_path, replace(CONFIG, cloud_share=0.3), TorchSampler(model))
    before = flat(trainer)
    figures = trainer.run(Work(PROMPTS, nothing_right), lambda _: None)
    assert figures["kept"] == 0.0 and torch.equal(flat(trainer), before)


def test_the_anchor_holds_the_model_near_where_it_started(model: Path, tmp_path: Path) -> None:
    anchors = [Encoded([*prompt, 40, 41], len(prompt), 1.0) for prompt in PROMPTS]
    batch, drift = collate(anchors, "cpu"), []
    for weight in (0.0, 20.0):
        config = replace(CONFIG, forward_weight=weight, lr=1e-2)
        trainer = PolicyTrainer(model, tmp_path / str(weight), config, TorchSampler(model))
        prior = answer_logits(trainer.model, batch).detach()
        trainer.run(Work(PROMPTS, judge, anchors), lambda _: None)
        drift.append(forward_kl(prior, answer_logits(trainer.model, batch), batch.weights).item())
    assert drift[1] < drift[0] / 3


def test_an_anchor_weight_without_anchors_is_refused(model: Path, tmp_path: Path) -> None:
    trainer = PolicyTrainer(model, tmp_path, replace(CONFIG, forward_weight=1.0), TorchSampler(model))
    with pytest.raises(EngineError, match=r"forward_weight.*Fix"):
        trainer.run(Work(PROMPTS, judge), lambda _: None)


def test_a_reward_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(model: Path, tmp_path: Path) -> None:
    train(model, tmp_path, steps=3)

    def broken(chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
        found = judge(chosen, texts)
        return Judged(found.rewards * np.nan, found.outcome)

    trainer = PolicyTrainer(model, tmp_path, CONFIG, TorchSampler(model))
    at = trainer.step
    with pytest.raises(ValueError, match="finite"):
        trainer.run(Work(PROMPTS, broken), lambda _: None)
    assert PolicyTrainer(model, tmp_path, CONFIG, TorchSampler(model)).step == at


@pytest.mark.parametrize("torn", [b"", b"PK\x03\x04 half"])
def test_a_checkpoint_that_is_damaged_is_refused_by_name(model: Path, tmp_path: Path, torn: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(torn)
    with pytest.raises(EngineError, match=rf"{CHECKPOINT}.*Fix"):
        PolicyTrainer(model, tmp_path, CONFIG, TorchSampler(model))


def test_a_killed_run_leaves_a_whole_checkpoint(model: Path, tmp_path: Path) -> None:
    """kill -9 while it writes a checkpoint after every step."""
    code = f"from tests.test_policy_trainer import *; train(Path({str(model)!r}), Path({str(tmp_path)!r}), steps=None)"
    child = subprocess.Popen([sys.executable, "-c", code.replace("steps=None", "steps=10**9")], cwd=Path.cwd())
    deadline = time.monotonic() + 60
    while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.15)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    reached = PolicyTrainer(model, tmp_path, CONFIG, TorchSampler(model)).step
    assert 1 <= reached <= CONFIG.steps
    resumed, _ = train(model, tmp_path)
    whole, _ = train(model, tmp_path / "whole")
    assert torch.equal(flat(resumed), flat(whole))


def test_what_is_saved_is_a_model_that_loads(model: Path, tmp_path: Path) -> None:
    trainer, _ = train(model, tmp_path)
    trainer.save(tmp_path / "candidate")
    loaded = load_model(tmp_path / "candidate", "cpu", torch.float32)
    assert sum(p.numel() for p in loaded.parameters()) == flat(trainer).numel()
