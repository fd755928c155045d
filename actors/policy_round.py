"""The second half of a round: reinforcement learning from the supervised candidate, on the same labels.

The supervised step says what to answer; this one samples what the model would answer at temperature 1 and moves it
towards answers that earn more: valid ones, the right tool, the right arguments. The candidate is its own anchor, and
what is written takes its place. Sampling is vLLM's, in this process; see ``actors.policy_trainer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actors.judges import LoggedJudge
from actors.policy_trainer import PolicyConfig, PolicyTrainer, Work
from actors.rollouts import ROLLOUT_SETTINGS, Rollouts
from actors.samples import SampleEncoder
from actors.trainer import device_of
from actors.training import Progress, Sample, TrainConfig, TrainingJob

PROMPTS, SAMPLES = 16, 8  # 128 answers a step: on one core a step of the bundled edge model takes about two seconds
EVERY = 50  # steps between checkpoints, which cost as much as a step


def improve(candidate: Path, job: TrainingJob, kept: Sequence[Sample], progress: Progress) -> dict[str, float]:
    """Run ``job.config.policy_steps`` steps from the model in ``candidate`` and write the result there.

    Args:
        kept: what to stay with, besides the labels.

    Raises:
        EngineError: the model cannot be loaded or sampled, or training diverged.
    """
    config, encoder = job.config, SampleEncoder(candidate, job.config.context)
    asked = [(label, encoder.prompt(label, config.max_new_tokens)) for label in job.labels]
    fitting: list[tuple[Sample, list[int]]] = [(label, prompt) for label, prompt in asked if prompt]
    if not fitting:
        return {"policy_steps": 0.0}
    labels, prompts = zip(*fitting, strict=True)
    anchors = encoder.encode_all([*kept, *labels])
    sampler = Rollouts(candidate, "candidate", replace(ROLLOUT_SETTINGS, threads=config.threads))
    try:
        trainer = PolicyTrainer(candidate, job.checkpoints, _config(config), sampler)
        figures = trainer.run(Work(prompts, LoggedJudge(labels), anchors), progress)
    finally:
        sampler.close()
    trainer.save(candidate)
    return {f"policy_{name}": value for name, value in figures.items()} | {"policy_steps": float(trainer.step)}


def _config(config: TrainConfig) -> PolicyConfig:
    return PolicyConfig(
        steps=config.policy_steps,
        prompts=PROMPTS,
        samples=SAMPLES,
        epochs=config.policy_epochs,
        reverse_weight=config.policy_reverse,
        forward_weight=config.policy_forward,
        max_new_tokens=config.max_new_tokens,
        lr=config.policy_lr,
        max_norm=config.clip,
        checkpoint_every=EVERY,
        threads=config.threads,
        device=device_of(config),
        seed=config.seed,
    )
