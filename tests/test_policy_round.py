"""A round that goes on with reinforcement learning: real sampling, real steps, and a candidate that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import tiny_model_dir

from actors.policy_round import improve
from actors.trainer import load_model
from actors.training import Sample, TrainConfig, TrainingJob
from policies.toolcalls import render
from policies.types import ToolCall

pytestmark = pytest.mark.slow

TOOL = {"type": "function", "function": {"name": "move_slice", "parameters": {"type": "object"}}}
LABELS = [
    Sample([{"role": "user", "content": f"move slice {n}"}], [TOOL], render([ToolCall("move_slice", {"to": str(n)})]))
    for n in range(4)
]


def test_steps_are_taken_from_the_candidate_and_written_in_its_place(tmp_path: Path) -> None:
    candidate = tiny_model_dir(tmp_path / "candidate")
    before = load_model(candidate, "cpu", torch.float32).get_input_embeddings().weight.detach().clone()
    config = TrainConfig(policy_steps=2, max_new_tokens=12, policy_forward=1.0)
    told: list[dict[str, float]] = []
    figures = improve(candidate, TrainingJob("", str(tmp_path), LABELS, config=config), [], told.append)
    assert figures["policy_steps"] == len(told) == 2
    assert figures["policy_sampled_tokens"] > 0
    after = load_model(candidate, "cpu", torch.float32).get_input_embeddings().weight.detach()
    assert not torch.equal(before, after)
    assert (candidate / "tokenizer.json").exists()
    assert not list(tmp_path.glob("tmp*")), "checkpoints are scratch"


def test_labels_that_leave_no_room_for_an_answer_change_nothing(tmp_path: Path) -> None:
    long = [Sample([{"role": "user", "content": "move " * 2000}], [TOOL], LABELS[0].answer)]
    job = TrainingJob("", str(tmp_path), long, config=TrainConfig(policy_steps=2))
    assert improve(tiny_model_dir(tmp_path / "candidate"), job, [], lambda _: None) == {"policy_steps": 0.0}
