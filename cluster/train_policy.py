"""PolicyNet trained by RLlib's PPO where decisions are coupled: ``policies.routing_env``.

The acting network is the monotone one itself: its tau is the mean of a Gaussian, so what is exported is what was
trained, and it is monotone at every step. Training starts from a given policy (``policies.coupled_search`` makes a good
one), and every few iterations the exported policy is judged by the caller on scenarios it is not trained on; the best
of all, the start included, is returned. One process, on the Ray session of this one.

What was found, on the bundled models' answers. A block's threshold explains a thousandth of the variance of what the
block earns, and later blocks feel it less than 12,000 steps can show: nearly all that PPO sees is noise. With steps of
0.5 on the logit and a trace of 0.95 or more, twenty iterations from the soft gate led downhill (840 to 837 V per 1,000
requests). So noise is taken out where it can be (the reward is a regret, answers count by their chance to be right),
exploration is wide and the trace short: ten iterations now lead from 840 to 842, and from the start that the search
finds, 850, to 851; on links it never saw, PPO adds nothing to that start (-1.6 to +1.0). The critic learns the mean
reward: its sum over the horizon is fifty times as large, and would be learnt last.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor, nn

from policies.errors import EngineError
from policies.funcdyn import INPUTS
from policies.policynet import PolicyNet, bounds
from policies.routing_env import RoutingEnv
from policies.soft_gate import net_from, net_logits

log = logging.getLogger(__name__)

NET = ("first", "first_bias", "second", "second_bias", "third", "third_bias")
ENV = "netgpt-routing"
STEP_STD = 1.5  # of tau's logit while exploring: a third of it showed nothing but noise
CRITIC_WIDTH = 64
HORIZON = 50  # blocks that count: past a queue, and about as far as an empty bucket needs to be full
BATCH_STEPS, ENVS = 4000, 8
JUDGE_EVERY = 5  # iterations; a judgement takes about as long as one


@dataclass(frozen=True, slots=True)
class PPORun:
    """What PPO came to: the best policy seen, ``start`` included, and what the judge said of both.

    ``iteration`` is the one the policy is from; 0 is the start, which nothing beat.
    """

    start: PolicyNet
    policy: PolicyNet
    iteration: int
    start_value: float
    best_value: float


class MonotoneModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """RLlib's view of a ``PolicyNet``: a Gaussian around tau, and a critic. ``model_config["net"]`` is the start."""

    def setup(self) -> None:
        start: Mapping[str, Any] = self.model_config["net"]
        self.net = nn.ParameterDict({name: nn.Parameter(torch.tensor(start[name])) for name in NET})
        self.log_std = nn.Parameter(torch.tensor([math.log(STEP_STD)]))
        low, high = (torch.tensor(bound, dtype=torch.float32) for bound in bounds(len(start["third"])))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.critic = nn.Sequential(nn.Linear(len(INPUTS), CRITIC_WIDTH), nn.Tanh(), nn.Linear(CRITIC_WIDTH, 1))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        logit = net_logits(dict(self.net.items()), batch[Columns.OBS], self.low, self.high)[..., None]
        return {Columns.ACTION_DIST_INPUTS: torch.cat([logit, self.log_std.expand_as(logit)], dim=-1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:  # noqa: ARG002
        rate: Tensor = self.critic(batch[Columns.OBS]).squeeze(-1)
        return HORIZON * rate


def train_ppo(
    start: PolicyNet,
    env: Mapping[str, Any],
    judge: Callable[[PolicyNet], float],
    iterations: int,
    seed: int = 0,
) -> PPORun:
    """Improve ``start`` by PPO; blocks until it ends.

    Args:
        env: the arguments of ``RoutingEnv`` besides its inputs, which are those of ``start``.
        judge: utility of a policy on scenarios it is not trained on; the higher the better.
        iterations: of ``BATCH_STEPS`` steps each.

    Raises:
        EngineError: training diverged to numbers that are not finite.
    """
    best = start_value = judge(start)
    kept, from_iteration = start, 0
    register_env(ENV, lambda given: RoutingEnv(**given))
    algorithm = _config(start, env, seed).build_algo()
    try:
        for iteration in range(1, iterations + 1):
            algorithm.train()
            if iteration % JUDGE_EVERY and iteration != iterations:
                continue
            policy = _exported(algorithm.get_module(), start, iteration)
            value = judge(policy)
            log.info(
                "PPO iteration %d: %.5f V per request on scenarios not trained on (best %.5f)", iteration, value, best
            )
            if value > best:
                kept, from_iteration, best = policy, iteration, value
    finally:
        algorithm.stop()
    return PPORun(start, kept, from_iteration, start_value, best)


def _config(start: PolicyNet, env: Mapping[str, Any], seed: int) -> PPOConfig:
    net = {name: getattr(start, name) for name in NET}
    return (
        PPOConfig()
        .environment(ENV, env_config={**env, "inputs": start.inputs}, normalize_actions=False, clip_actions=True)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS)
        .learners(num_learners=0)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MonotoneModule, model_config={"net": net}))
        .training(
            lr=1e-3,
            gamma=1.0 - 1.0 / HORIZON,
            lambda_=0.6,  # at 0.95, twenty blocks of noise against two or three of effect
            train_batch_size_per_learner=BATCH_STEPS,
            minibatch_size=1000,
            num_epochs=6,
            clip_param=0.2,
            vf_clip_param=math.inf,
            vf_loss_coeff=1.0 / HORIZON**2,
            grad_clip=0.5,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def _exported(module: Any, start: PolicyNet, iteration: int) -> PolicyNet:
    net: MonotoneModule = module.unwrapped()
    try:
        return net_from(start.inputs, {name: net.net[name] for name in NET}, start.floor)
    except ValueError as why:
        raise EngineError(
            f"PPO diverged by iteration {iteration}: {why}. Fix: train less, or on more requests"
        ) from why
