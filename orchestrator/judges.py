"""What sampled answers earn: judged by the cloud's logged answer, or by a verifier with the cloud as the helper.

Both are ``actors.policy_trainer.Judge``: indices of prompts and the texts of their G answers in, rewards and outcomes
out. ``LoggedJudge`` learns from an offload log, where the cloud has answered already. ``CollaborativeJudge`` is for
tasks with a verifier (arXiv 2509.24050): the cloud is asked at most once a prompt over the whole run, and only when one
of its answers asks for help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.policy_trainer import Judged
from orchestrator.lessons import Case
from orchestrator.verifiers import Verifier
from policies.help_marker import asks_for_help
from policies.prompt_filter import Batch
from policies.reward import CallWeights, Hierarchy, gated_reward, hierarchical_reward
from policies.toolcalls import parse

AskCloud = Callable[[Sequence[Any]], Sequence[str]]
"""The cloud's answers to tasks, in their order."""


class LoggedJudge:
    """Answers to logged requests, each with the cloud's answer as the reference.

    Args:
        cases: labelled ones only; their order is that of the prompts.
    """

    def __init__(self, cases: Sequence[Case], weights: CallWeights | None = None) -> None:
        assert all(case.cloud is not None for case in cases), "a case without the cloud's answer has no reference"
        self._cases, self._weights = cases, weights or CallWeights()

    def __call__(self, chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
        """Rewards as in ``policies.reward.gated_reward``; saying the same as the cloud is the preference."""
        rewards = [
            [self._reward(self._cases[i], text) for text in group] for i, group in zip(chosen, texts, strict=True)
        ]
        right = [[self._cases[i].right(text) for text in group] for i, group in zip(chosen, texts, strict=True)]
        asked = np.array([[asks_for_help(text) for text in group] for group in texts], dtype=bool)
        outcome = Batch(asked, np.array(right, dtype=bool) & ~asked, np.full(len(chosen), True))
        return Judged(np.array(rewards, dtype=np.float64), outcome)

    def _reward(self, case: Case, text: str) -> float:
        assert case.cloud is not None
        calls, preference = parse(text).calls, float(case.right(text))
        return gated_reward(case.valid(text), calls, case.cloud.calls, self._weights, preference)


class CollaborativeJudge:
    """Answers to tasks that a verifier can judge, by a model that may ask the cloud for help.

    Args:
        tasks: in the order of the prompts.
        cloud: answers tasks; deterministic as far as it matters, for each is asked once.
        formatted: whether a text keeps to the asked-for form; only read where ``hierarchy`` rewards that.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        verify: Verifier,
        cloud: AskCloud,
        hierarchy: Hierarchy,
        formatted: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._tasks, self._verify, self._cloud = tasks, verify, cloud
        self._hierarchy, self._formatted = hierarchy, formatted
        self._helped: dict[int, bool] = {}  # whether the cloud is right, by prompt; at most one entry a prompt

    @property
    def cloud_calls(self) -> int:
        """How many prompts the cloud was asked."""
        return len(self._helped)

    def __call__(self, chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
        """Rewards as in ``policies.reward.hierarchical_reward``."""
        asked = np.array([[asks_for_help(text) for text in group] for group in texts], dtype=bool)
        self._ask([i for i, group in zip(chosen, asked, strict=True) if group.any()])
        cloud = np.array([self._helped.get(i, False) for i in chosen], dtype=bool)
        judged = [
            [self._verify(self._tasks[i], text) for text in group] for i, group in zip(chosen, texts, strict=True)
        ]
        right = np.array(judged, dtype=bool) & ~asked
        rewards = [
            [
                hierarchical_reward(bool(helped if a else r), bool(a), self._formatted(text), self._hierarchy)
                for text, a, r in zip(group, asks, rights, strict=True)
            ]
            for group, asks, rights, helped in zip(texts, asked, right, cloud, strict=True)
        ]
        return Judged(np.array(rewards, dtype=np.float64), Batch(asked, right, cloud))

    def _ask(self, wanted: Sequence[int]) -> None:
        new = [index for index in dict.fromkeys(wanted) if index not in self._helped]
        if new:
            tasks = [self._tasks[index] for index in new]
            for index, task, answer in zip(new, tasks, self._cloud(tasks), strict=True):
                self._helped[index] = self._verify(task, answer)
