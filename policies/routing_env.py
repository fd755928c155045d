"""Routing as a sequential decision problem: today's offload is paid for tomorrow, by a queue and by a budget.

``Episode`` is the dynamics: logged requests with both answers (``Outcomes``) arrive at given times on a link that
follows a trace. What goes to the cloud waits behind what went before, and takes from the very ``TokenBucket`` that caps
a site; what the bucket cannot give is answered from the edge, as a site does. ``budget_left`` is the bucket's, so what
a policy is trained on is what it will see. Two things are easier here than in serving: the queue and the link are known
exactly, not estimated. ``RoutingEnv`` is the Gymnasium form: the observation is what a fitted threshold sees, the
action the threshold of the next block of requests. ``play`` is a policy's run, each request with its own threshold.
Deterministic given a seed. Needs gymnasium; nothing that serves imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from policies.budget import TokenBucket
from policies.cost import unit_costs, unit_prices
from policies.funcdyn import INPUTS, StateInputs, sigmoid
from policies.outcomes import Outcomes
from policies.score import FloatArray
from policies.threshold import ThresholdPolicy
from policies.types import CloudSpeed, CloudWork, Objective, RoutingState

Observation = npt.NDArray[np.float32]
MOST_LOGIT = 10.0  # of an action: 1e-4 from 0 and 1, finer than any calibrated score


@dataclass(frozen=True, slots=True)
class Scenario:
    """A link over time, and when requests come.

    Args:
        trace: moments in seconds, ascending, and the state from each on; its ``budget_left`` is not read, its
            ``queue_s`` is what others wait for in the cloud.
        arrivals_s: ascending, none before the trace begins.

    Raises:
        ValueError: either is empty, unsorted or not finite, or a request comes before the trace begins.
    """

    trace: Sequence[tuple[float, RoutingState]]
    arrivals_s: Sequence[float]

    def __post_init__(self) -> None:
        for name, times in (("trace", [moment for moment, _ in self.trace]), ("arrivals_s", self.arrivals_s)):
            array = np.asarray(times, dtype=np.float64)
            if not len(array) or not np.isfinite(array).all() or (np.diff(array) < 0).any():
                raise ValueError(f"{name} must hold finite times in ascending order, at least one")
        if self.arrivals_s[0] < self.trace[0][0]:
            raise ValueError(f"arrivals_s must be >= the trace's first moment, got {self.arrivals_s[0]}")


@dataclass(frozen=True, slots=True)
class Coupling:
    """What one offload costs the next.

    Args:
        budget: dollars or tokens that may be spent at once, and that come back over a window.
        window_s: seconds in which an empty bucket is full again.
        tokens_per_s: at which the cloud works requests off, one after another.
        unit: of the budget.
    """

    budget: float
    window_s: float
    tokens_per_s: float
    unit: Literal["usd", "tokens"] = "usd"

    def __post_init__(self) -> None:
        for name in ("budget", "window_s", "tokens_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)!r}")


class Episode:
    """One pass over a scenario; ``outcomes`` holds the requests in the order of their arrival.

    Raises:
        ValueError: there are not as many outcomes as arrivals, or a figure is negative or not finite.
    """

    def __init__(
        self, outcomes: Outcomes, scenario: Scenario, coupling: Coupling, speed: CloudSpeed, objective: Objective
    ) -> None:
        if len(outcomes) != len(scenario.arrivals_s):
            raise ValueError(f"outcomes must hold {len(scenario.arrivals_s)} requests, got {len(outcomes)}")
        moments = [moment for moment, _ in scenario.trace]
        self._states = [state for _, state in scenario.trace]
        self._coupling, self._arrivals = coupling, list(map(float, scenario.arrivals_s))
        self._index: list[int] = (np.searchsorted(moments, self._arrivals, side="right") - 1).tolist()
        value = objective.value_usd
        paid, tokens = outcomes.amounts, outcomes.amounts[:, 1:4].sum(axis=1)
        kappa = unit_prices(self._states, speed, objective)[self._index]
        money = unit_costs(self._states, speed)[0][self._index]
        spent = (money * paid).sum(axis=1) if coupling.unit == "usd" else tokens
        self._edge: list[float] = outcomes.edge_right.tolist()
        self._cloud = (outcomes.cloud_right - (kappa * paid).sum(axis=1) / value).tolist()
        self._better: list[float] = np.maximum(self._edge, self._cloud).tolist()
        self._score, self._spent = outcomes.score.tolist(), spent.tolist()
        self._work_s = (tokens / coupling.tokens_per_s).tolist()
        self._second = objective.second_usd / value
        self._amounts = paid.astype(int).tolist()
        self._bucket = TokenBucket(coupling.budget, coupling.window_s)
        self._next, self._free_s = 0, -math.inf

    @property
    def done(self) -> bool:
        """Whether every request has been answered."""
        return self._next == len(self._arrivals)

    @property
    def state(self) -> RoutingState:
        """What the next request finds (after the last one, what it found)."""
        i = min(self._next, len(self._arrivals) - 1)
        now, state = self._arrivals[i], self._states[self._index[i]]
        queue_s = state.queue_s + max(0.0, self._free_s - now)
        return RoutingState(state.link, state.prices, queue_s, self._bucket.left(now))

    @property
    def work(self) -> CloudWork:
        """What the next request would ask of the cloud (after the last one, what it asked)."""
        _, fresh, cached, output, up, down = self._amounts[min(self._next, len(self._arrivals) - 1)]
        return CloudWork(up, down, fresh + cached, output, cached)

    def serve(self, tau: float, count: int) -> float:
        """Answer the next ``count`` requests under ``tau``: the sum of their utilities in units of V."""
        return sum(utility for _, utility in self._answered(tau, count))

    def regret(self, tau: float, count: int) -> float:
        """What the same requests earn less than the better answer of each, were the cloud free for all of them.

        That yardstick is the same for every tau, and takes with it most of the noise: who asked what.
        """
        return sum(self._better[i] - utility for i, utility in self._answered(tau, count))

    def _answered(self, tau: float, count: int) -> Iterator[tuple[int, float]]:
        for i in range(self._next, min(self._next + count, len(self._arrivals))):
            kept = (self._score[i] >= tau and self._score[i] > 0) or not self._states[self._index[i]].link.up
            given = kept or not self._bucket.take(self._spent[i], self._arrivals[i])
            self._next = i + 1
            yield i, self._edge[i] if given else self._offload(i)

    def _offload(self, i: int) -> float:
        wait_s = max(0.0, self._free_s - self._arrivals[i])
        self._free_s = self._arrivals[i] + wait_s + self._work_s[i]
        return float(self._cloud[i] - self._second * wait_s)


class RoutingEnv(gymnasium.Env[Observation, Observation]):
    """Gymnasium's view: each episode plays one of ``scenarios`` with requests drawn from ``outcomes`` by weight.

    The observation is ``inputs.encode`` of the state, [len(INPUTS)] in [0, 1]; the action the logit of tau, [1], held
    for ``block`` requests; the reward minus the block's ``Episode.regret`` in V over ``block``. A logit, because scores
    crowd at 0 and 1: there a step of one size in tau is now nothing, now everything. Episodes are truncated, never
    terminated: the trace ends, a site does not.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        scenarios: Sequence[Scenario],
        coupling: Coupling,
        speed: CloudSpeed,
        objective: Objective,
        inputs: StateInputs,
        block: int = 10,
    ) -> None:
        if not scenarios or not len(outcomes) or block < 1:
            raise ValueError(
                f"needs scenarios, outcomes and block >= 1, got {len(scenarios)}, {len(outcomes)}, {block}"
            )
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(INPUTS),), np.float32)
        self.action_space = gymnasium.spaces.Box(-MOST_LOGIT, MOST_LOGIT, (1,), np.float32)
        self._outcomes, self._scenarios, self._inputs, self._block = outcomes, scenarios, inputs, block
        self._world = (coupling, speed, objective)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a scenario drawn at random."""
        super().reset(seed=seed, options=options)
        scenario = self._scenarios[int(self.np_random.integers(len(self._scenarios)))]
        rows = draw(self._outcomes, len(scenario.arrivals_s), self.np_random)
        self._episode = Episode(rows, scenario, *self._world)
        return self._observe(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer the next block under the threshold whose logit is ``action[0]``."""
        reward = -self._episode.regret(sigmoid(float(action[0])), self._block) / self._block
        return self._observe(), reward, False, self._episode.done, {}

    def _observe(self) -> Observation:
        return np.array(self._inputs.encode(self._episode.state), dtype=np.float32).clip(0.0, 1.0)


def draw(outcomes: Outcomes, n: int, random: np.random.Generator) -> Outcomes:
    """``n`` requests drawn with replacement, by weight."""
    chances = outcomes.weights / outcomes.weights.sum()
    return outcomes.part(random.choice(len(outcomes), n, p=chances))


def play(
    policy: ThresholdPolicy,
    outcomes: Outcomes,
    scenarios: Sequence[Scenario],
    coupling: Coupling,
    speed: CloudSpeed,
    objective: Objective,
    *,
    block: int = 1,
    seed: int = 0,
) -> FloatArray:
    """Mean utility in V per request of ``policy`` in each scenario: [len(scenarios)].

    The same requests for the same seed, whatever the policy. ``policy`` is asked anew every ``block`` requests.
    """
    random, earned = np.random.default_rng(seed), []
    for scenario in scenarios:
        rows = draw(outcomes, len(scenario.arrivals_s), random)
        episode, total = Episode(rows, scenario, coupling, speed, objective), 0.0
        while not episode.done:
            total += episode.serve(policy.threshold(episode.state, episode.work), block)
        earned.append(total / len(rows))
    return np.array(earned)
