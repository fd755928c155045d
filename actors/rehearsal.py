"""What a round is to keep: the model's own answers to the questions of the log, where they are right (ours).

Anchors are samples of pi_SFT, so the model that training starts from is asked anew, by itself and greedily: questions
that an older version sent to the cloud count as well as those that this one served. An answer is kept where the cloud
said the same, or where nobody asked the cloud and the model's own score is high. Without these a model that learns a
few hundred answers forgets some of what it was sure of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actors.chat import ChatRequest
from actors.evaluator import Evaluator
from actors.scorer import Scorer, first_scorer
from actors.training import Draft, Sample, TrainConfig
from policies.help_marker import asks_for_help
from policies.toolcalls import parse, same_answer

SURE = 0.85  # of the bundled model's drafts with that score or more one in eighty is wrong


def rehearsed(directory: Path, questions: Sequence[Sample], config: TrainConfig) -> list[Sample]:
    """Those of ``questions`` that the model in ``directory`` answers rightly, with its answers.

    Args:
        questions: with the cloud's answer where it is known, else none.

    Raises:
        EngineError: the model cannot be loaded.
        StoreError: its scorer cannot.
    """
    if not questions:
        return []
    scorer, drafts = first_scorer(directory), Evaluator(directory, config).answer(questions)
    known = zip(questions, drafts, strict=True)
    return [replace(asked, answer=draft.text) for asked, draft in known if draft and _is_right(asked, draft, scorer)]


def _is_right(asked: Sample, draft: Draft, scorer: Scorer) -> bool:
    if asks_for_help(draft.text):
        return False  # as in serving and at the gate, whatever else it says
    answer = parse(draft.text)
    if asked.answer:
        return same_answer(answer, parse(asked.answer))
    request = ChatRequest(asked.messages, asked.tools)
    valid = request.problem(answer) is None
    return scorer.judge(request.question, len(asked.tools), draft.logprobs, valid) >= SURE
