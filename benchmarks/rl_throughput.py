"""Reinforcement learning of the bundled edge model: our trainer and trl's GRPOTrainer, side by side in one run.

Both sides have the same weights (float32), prompts (training tasks, every one in every step), group size, temperature,
longest answer, reward, AdamW and rate, and take one optimiser step a batch. A side is a process of its own; the sides
alternate, so that the machine's drift meets both, and a round has prompts of its own. The first step is not counted.

A token counts once where it is generated (the end token included) and once where it is trained on. That is stricter
with us: trl sends every answer through the model, while ours leaves out those whose coefficient is 0 (a group of equal
rewards moves nothing) and does not count them. *Answers per second* is the pace through the same batches. A ratio is
the geometric mean over the rounds, with a 95 % interval from their spread. The target is on the time of the clock; the
processor's time, which other work on the machine disturbs less, is beside it.

trl has no reference model (beta 0), no gradient checkpointing, no bfloat16, the fused AdamW and one forward pass a
batch; ``--trl batching`` turns on transformers' continuous batching instead of its ``generate``. Its vLLM mode does
not run on CPU: the hand-over of the weights fails in vLLM ('Parameter' object has no attribute 'weight_loader').
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

from benchmarks.figures import Figure, at_least, parser, publish

TARGET = 2.0
MAX_NEW_TOKENS, SAMPLES, RATE, BETAS, MAX_NORM = 160, 8, 1e-5, (0.9, 0.98), 1.0
LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does: ``steps`` include the first, which is not counted; ``seed`` draws the prompts."""

    side: str
    threads: int
    steps: int
    prompts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a step: the clock's and the processor's seconds, and the tokens of its answers."""

    wall_s: float
    cpu_s: float
    generated: int
    trained: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens, and seconds of the counted steps."""

    wall_s: float
    cpu_s: float
    generated: int
    trained: int
    answers: int

    @property
    def tokens_per_s(self) -> float:
        """Generated and trained, by the clock."""
        return (self.generated + self.trained) / self.wall_s

    @property
    def tokens_per_cpu_s(self) -> float:
        """Likewise, by the processor's time."""
        return (self.generated + self.trained) / self.cpu_s

    @property
    def answers_per_s(self) -> float:
        """Answers sampled, judged and learned from, by the clock."""
        return self.answers / self.wall_s


def pace(marks: Sequence[Mark], answers: int) -> Pace:
    """From the end of the first step to the end of the last; ``answers`` are those of one step."""
    first, *rest = marks
    return Pace(
        rest[-1].wall_s - first.wall_s,
        rest[-1].cpu_s - first.cpu_s,
        sum(mark.generated for mark in rest),
        sum(mark.trained for mark in rest),
        answers * len(rest),
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the ratios of two pairs or more, and its 95 % interval (Student's t on their logarithms)."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    middle, reach = mean(logs), float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)


def figures(threads: int, ours: Sequence[Pace], theirs: Sequence[Pace]) -> list[Figure]:
    """What a number of threads came to."""
    what = f"{threads} thread{'s' if threads > 1 else ''}: "
    won, low, high = ratio([p.tokens_per_s for p in ours], [p.tokens_per_s for p in theirs])
    cpu, _, _ = ratio([p.tokens_per_cpu_s for p in ours], [p.tokens_per_cpu_s for p in theirs])
    answers, _, _ = ratio([p.answers_per_s for p in ours], [p.answers_per_s for p in theirs])
    return [
        Figure(what + "ours, generated and trained", mean(p.tokens_per_s for p in ours), "tokens/s"),
        Figure(what + "trl, generated and trained", mean(p.tokens_per_s for p in theirs), "tokens/s"),
        at_least(what + "ours / trl", won, "ratio", TARGET),
        Figure(what + "ours / trl, low", low, "ratio"),
        Figure(what + "ours / trl, high", high, "ratio"),
        Figure(what + "ours / trl by processor time", cpu, "ratio"),
        Figure(what + "ours, answers", mean(p.answers_per_s for p in ours), "1/s"),
        Figure(what + "trl, answers", mean(p.answers_per_s for p in theirs), "1/s"),
        Figure(what + "ours / trl, answers", answers, "ratio"),
    ]


def run_ours(plan: Plan) -> list[Mark]:
    """Steps of our trainer."""
    from actors.policy_trainer import PolicyConfig, PolicyTrainer, Work  # noqa: PLC0415
    from actors.rollouts import ROLLOUT_SETTINGS, Rollouts  # noqa: PLC0415

    model, prompts, _, judge = _work(plan)
    config = PolicyConfig(
        steps=plan.steps,
        prompts=plan.prompts,
        samples=SAMPLES,
        max_new_tokens=MAX_NEW_TOKENS,
        lr=RATE,
        warmup=0.0,
        max_norm=MAX_NORM,
        checkpoint_every=plan.steps,
        threads=plan.threads,
        seed=plan.seed,
    )
    marks: list[Mark] = []
    sampler = Rollouts(model, "base", replace(ROLLOUT_SETTINGS, threads=plan.threads))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = PolicyTrainer(model, Path(scratch), config, sampler)
        trainer.run(
            Work(prompts, judge),
            lambda told: marks.append(_mark(int(told["sampled_tokens"]), int(told["learnt_tokens"]))),
        )
    sampler.close()
    return marks


def run_trl(plan: Plan, batching: bool) -> list[Mark]:
    """Steps of GRPOTrainer on the same; ``batching`` as in transformers' continuous batching."""
    import torch  # noqa: PLC0415
    from datasets import Dataset  # noqa: PLC0415
    from transformers import TrainerCallback  # noqa: PLC0415
    from trl import GRPOConfig, GRPOTrainer  # noqa: PLC0415

    from actors.trainer import load_model  # noqa: PLC0415

    model, prompts, tokenizer, judge = _work(plan)
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    assert [tokenizer(text)["input_ids"] for text in texts] == [list(prompt) for prompt in prompts]
    marks: list[Mark] = []
    tokens = 0

    def reward(completions: list[str], completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        nonlocal tokens
        tokens = sum(map(len, completion_ids))
        return [float(row[0]) for row in judge(index, [[text] for text in completions]).rewards]

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(_mark(tokens, tokens))

    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=load_model(model, "cpu", torch.float32),
            reward_funcs=reward,
            args=GRPOConfig(output_dir=scratch, use_transformers_continuous_batching=batching, **_trl_options(plan)),
            train_dataset=Dataset.from_list(
                [{"prompt": text, "index": i} for i, text in enumerate(texts)] * plan.steps
            ),
            processing_class=tokenizer,
            callbacks=[Marks()],
        )
        torch.set_num_threads(plan.threads)
        trainer.train()
    return marks


def main() -> int:
    """The command line: measure both sides, or with ``--plan`` be one of them."""
    arguments = parser(__doc__)
    arguments.add_argument("--prompts", type=int, default=32, help=f"prompts of a step, each with {SAMPLES} answers")
    arguments.add_argument("--steps", type=int, default=6, help="counted steps of each process")
    arguments.add_argument("--rounds", type=int, default=4, help="alternations of the two sides, 2 or more")
    arguments.add_argument("--trl", choices=["generate", "batching"], default="generate", help="how trl generates")
    arguments.add_argument("--plan", help="JSON of one process's plan (used by this command itself)")
    given = arguments.parse_args()
    if given.plan:
        plan = Plan(**json.loads(given.plan))
        marks = run_ours(plan) if plan.side == "ours" else run_trl(plan, plan.side == "batching")
        print(json.dumps(asdict(pace(marks, plan.prompts * SAMPLES))))
        return 0
    if find_spec("trl") is None:
        raise SystemExit('trl is not installed. Fix: pip install "netgpt-orchestrator[bench]", or pip install trl')
    rounds, steps = (2, 2) if given.quick else (given.rounds, given.steps)
    made: list[Figure] = []
    told: list[dict[str, Any]] = []
    for threads in (1, 2):
        found: dict[str, list[Pace]] = {"ours": [], given.trl: []}
        for turn in range(rounds):
            for side, paces in found.items():
                plan = Plan(side, threads, steps + 1, given.prompts, seed=turn)
                paces.append(_measured(plan))
                told.append({**asdict(plan), **asdict(paces[-1]), "load_1min": round(os.getloadavg()[0], 2)})
        made += figures(threads, found["ours"], found[given.trl])
    return publish("Reinforcement learning against trl's GRPOTrainer", made, given, {"trl": given.trl, "runs": told})


def _measured(plan: Plan) -> Pace:
    """One process of ``threads`` threads."""
    command = [sys.executable, "-m", "benchmarks.rl_throughput", "--plan", json.dumps(asdict(plan))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, check=True, timeout=LIMIT_S, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    return Pace(**json.loads(done.stdout.splitlines()[-1]))


def _work(plan: Plan) -> tuple[Path, list[list[int]], Any, Any]:
    """The model, prompts as tokens, their tokenizer, and the judge."""
    from actors.judges import LoggedJudge  # noqa: PLC0415
    from actors.samples import SampleEncoder  # noqa: PLC0415
    from actors.training import Sample  # noqa: PLC0415
    from orchestrator.bundled.train import MODELS  # noqa: PLC0415
    from orchestrator.tasks.generator import Split, tasks  # noqa: PLC0415

    model = MODELS / "edge"
    encoder = SampleEncoder(model, 1024)
    stream = (Sample(task.messages, task.tools, task.text) for task in tasks(plan.seed, Split.TRAIN))
    fitting = ((label, prompt) for label in stream if (prompt := encoder.prompt(label, MAX_NEW_TOKENS)))
    labels, prompts = zip(*islice(fitting, plan.prompts), strict=True)
    return model, list(prompts), encoder.tokenizer, LoggedJudge(labels)


def _trl_options(plan: Plan) -> dict[str, Any]:
    return {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "beta": 0.0,
        "per_device_train_batch_size": plan.prompts * SAMPLES,
        "num_generations": SAMPLES,
        "max_completion_length": MAX_NEW_TOKENS,
        "temperature": 1.0,
        "learning_rate": RATE,
        "optim": "adamw_torch_fused",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "max_grad_norm": MAX_NORM,
        "max_steps": plan.steps,
        "seed": plan.seed,
        "shuffle_dataset": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def _mark(generated: int, trained: int) -> Mark:
    return Mark(time.perf_counter(), time.process_time(), generated, trained)


if __name__ == "__main__":
    sys.exit(main())
