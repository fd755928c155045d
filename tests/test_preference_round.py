"""DPO on the cloud's corrections: a real model that prefers the cloud's answer afterwards."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_model import tiny_model_dir

from actors.preference_round import prefer
from actors.samples import SampleEncoder, answer_logits, collate
from actors.trainer import load_model
from actors.training import Sample, TrainConfig, TrainingJob
from policies.policy_losses import per_answer, token_logprobs
from policies.toolcalls import render
from policies.types import ToolCall

TOOL = {"type": "function", "function": {"name": "move_slice", "parameters": {"type": "object"}}}
GOOD, BAD = (render([ToolCall("move_slice", {"to": to})]) for to in ("north", "south"))


def label(n: int, rejected: str = BAD) -> Sample:
    return Sample([{"role": "user", "content": f"move slice {n}"}], [TOOL], GOOD, rejected=rejected)


def margin(directory: Path, asked: Sample) -> float:
    """log pi(good) - log pi(bad)."""
    encoder = SampleEncoder(directory, 4096)
    rows = encoder.encode_all([asked, Sample(asked.messages, asked.tools, BAD)])
    batch = collate(rows, "cpu")
    with torch.no_grad():
        logprobs = token_logprobs(answer_logits(load_model(directory, "cpu", torch.float32), batch), batch.targets)
    good, bad = per_answer(logprobs, batch.rows, 2).tolist()
    return float(good - bad)


def test_the_cloud_s_answer_gains_on_the_draft_it_corrected(tmp_path: Path) -> None:
    candidate = tiny_model_dir(tmp_path / "candidate")
    before = margin(candidate, label(1))
    job = TrainingJob("", str(tmp_path), [label(n) for n in range(4)], config=TrainConfig(preference_steps=15))
    figures = prefer(candidate, job, lambda _: None)
    assert figures["preference_pairs"] == 4
    assert figures["preference_loss"] < 0.69, "log 2 is where it starts"
    assert margin(candidate, label(1)) > before


def test_labels_without_a_rejected_draft_change_nothing(tmp_path: Path) -> None:
    candidate = tiny_model_dir(tmp_path / "candidate")
    before = (candidate / "model.safetensors").read_bytes()
    job = TrainingJob("", str(tmp_path), [label(1, rejected="")], config=TrainConfig(preference_steps=2))
    assert prefer(candidate, job, lambda _: None) == {"preference_pairs": 0.0}
    assert (candidate / "model.safetensors").read_bytes() == before
