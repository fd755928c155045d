"""Routing as a sequential decision problem: today's offload is paid for tomorrow, by a queue and by a budget.

``Episode`` is the dynamics: logged requests with both answers (``Outcomes``) arrive at given times on a link that
follows a trace. What goes to the cloud waits behind what went before, spends the budget of its window, and what
overruns the budget is fined. ``RoutingEnv`` is its Gymnasium form: the observation is what a fitted threshold sees, the
action the threshold for the next block of requests, the reward the block's utility. ``play`` is a policy's run.
Deterministic given a seed. Needs gymnasium; nothing that serves imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from policies.checks import nonnegative
from policies.cost import unit_costs, unit_prices
from policies.funcdyn import INPUTS, StateInputs
from policies.outcomes import Outcomes
from policies.soft_gate import typical_work
from policies.threshold import ThresholdPolicy
from policies.types import CloudSpeed, Objective, RoutingState

Observation = npt.NDArray[np.float32]


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
        budget: dollars or tokens for each window.
        window_s: length of a window; what is left of a budget ends with it.
        fine_usd: for every dollar or token past the budget.
        tokens_per_s: at which the cloud works requests off, one after another.
        unit: of the budget.
    """

    budget: float
    window_s: float
    fine_usd: float
    tokens_per_s: float
    unit: Literal["usd", "tokens"] = "usd"

    def __post_init__(self) -> None:
        for name in ("budget", "window_s", "tokens_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)!r}")
        nonnegative(fine_usd=self.fine_usd)


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
        self._edge = outcomes.edge_right.tolist()
        self._cloud = (outcomes.cloud_right - (kappa * paid).sum(axis=1) / value).tolist()
        self._score, self._spent = outcomes.score.tolist(), spent.tolist()
        self._work_s = (tokens / coupling.tokens_per_s).tolist()
        self._second, self._fine = objective.second_usd / value, coupling.fine_usd / value
        self._next, self._free_s, self._window, self._used = 0, -math.inf, -1, 0.0

    @property
    def done(self) -> bool:
        """Whether every request has been answered."""
        return self._next == len(self._arrivals)

    @property
    def state(self) -> RoutingState:
        """What the next request finds (after the last one, what it found)."""
        i = min(self._next, len(self._arrivals) - 1)
        now, state = self._arrivals[i], self._states[self._index[i]]
        used = self._used if self._window == now // self._coupling.window_s else 0.0
        left = max(0.0, 1.0 - used / self._coupling.budget)
        return replace(state, queue_s=state.queue_s + max(0.0, self._free_s - now), budget_left=left)

    def serve(self, tau: float, count: int) -> float:
        """Answer the next ``count`` requests under ``tau``: the sum of their utilities less fines, in units of V."""
        total = 0.0
        for i in range(self._next, min(self._next + count, len(self._arrivals))):
            if (self._score[i] >= tau and self._score[i] > 0) or not self._states[self._index[i]].link.up:
                total += self._edge[i]
            else:
                total += self._offload(i)
            self._next = i + 1
        return total

    def _offload(self, i: int) -> float:
        now, coupling = self._arrivals[i], self._coupling
        wait_s = max(0.0, self._free_s - now)
        self._free_s = now + wait_s + self._work_s[i]
        if self._window != now // coupling.window_s:
            self._window, self._used = int(now // coupling.window_s), 0.0
        before = max(self._used, coupling.budget)
        self._used += self._spent[i]
        return float(self._cloud[i] - self._second * wait_s - self._fine * max(0.0, self._used - before))


class RoutingEnv(gymnasium.Env[Observation, Observation]):
    """Gymnasium's view: each episode plays one of ``scenarios`` with requests drawn from ``outcomes`` by weight.

    The observation is ``inputs.encode`` of the state, [len(INPUTS)] in [0, 1]; the action tau, [1] in [0, 1], held for
    ``block`` requests; the reward the block's utility in V over ``block``.
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
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
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
        """Answer the next block under the threshold ``action[0]``, clipped to [0, 1]."""
        tau = min(max(float(action[0]), 0.0), 1.0)
        reward = self._episode.serve(tau, self._block) / self._block
        return self._observe(), reward, self._episode.done, False, {}

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
    block: int = 10,
    seed: int = 0,
) -> float:
    """Mean utility in V per request of ``policy`` over ``scenarios``; the same requests for the same seed."""
    random, work = np.random.default_rng(seed), typical_work(outcomes)
    total, served = 0.0, 0
    for scenario in scenarios:
        n = len(scenario.arrivals_s)
        episode = Episode(draw(outcomes, n, random), scenario, coupling, speed, objective)
        while not episode.done:
            total += episode.serve(policy.threshold(episode.state, work), block)
        served += n
    return total / served
