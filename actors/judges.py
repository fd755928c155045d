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
from actors.training import Sample
from policies.help_marker import asks_for_help
from policies.prompt_filter import Batch
from policies.reward import CallWeights, Hierarchy, gated_reward, hierarchical_reward
from policies.toolcalls import check, parse, same_answer

Verifier = Callable[[Any, str], bool]
"""Whether a text solves a task; ``orchestrator.verifiers`` has some."""

AskCloud = Callable[[Sequence[Any]], Sequence[str]]
"""The cloud's answers to tasks, in their order."""


class LoggedJudge:
    """Answers to logged requests, each with the cloud's answer as the reference.

    Args:
        labels: requests with the cloud's answers, in the order of the prompts.
    """

    def __init__(self, labels: Sequence[Sample], weights: CallWeights | None = None) -> None:
        self._labels, self._weights = labels, weights or CallWeights()
        self._references = [parse(label.answer) for label in labels]

    def __call__(self, chosen: Sequence[int], texts: Sequence[Sequence[str]]) -> Judged:
        """Rewards as in ``policies.reward.gated_reward``; saying the same as the cloud is the preference."""
        found = [[self._reward(index, text) for text in group] for index, group in zip(chosen, texts, strict=True)]
        rewards, right = np.moveaxis(np.array(found, dtype=np.float64), -1, 0)
        asked = np.array([[asks_for_help(text) for text in group] for group in texts], dtype=bool)
        return Judged(rewards, Batch(asked, (right > 0) & ~asked, np.full(len(chosen), True)))

    def _reward(self, index: int, text: str) -> tuple[float, bool]:
        label, reference, answer = self._labels[index], self._references[index], parse(text)
        right, valid = same_answer(answer, reference), check(answer, label.tools) is None
        return gated_reward(valid, answer.calls, reference.calls, self._weights, float(right)), right


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
