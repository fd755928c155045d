"""What the cloud says where parent and candidate disagree: asked while a round is judged, a bounded number of times.

An answer that both models give says nothing about which is better; one on which they differ says everything, and the
log has the cloud's word on few of those, for the parent was sure of most. So the round asks. A handful of calls takes
most of the noise out of the gate's estimate, and the candidate's calibrator learns from exactly the drafts that are
new. Ours.

A row's propensity becomes the probability that it has a label in the end, by the log or by being asked, so that the
estimate stays unbiased when only some of the rows are asked or the cloud answers only some.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from actors.chat import ChatRequest
from actors.engine import Engine
from orchestrator.lessons import Case, labelled_case
from orchestrator.verdict import Answered
from policies.errors import NetGPTError

logger = logging.getLogger(__name__)

Ask = Callable[[Sequence[ChatRequest]], Sequence[str | None]]
"""The cloud's answers in the order of the requests; None where it gave none."""

AT_ONCE = 4  # what clients wait for goes over the same link


def second_opinions(rows: Sequence[Answered], ask: Ask, most: int, seed: int) -> tuple[list[Answered], int]:
    """``rows`` with the cloud's word on those where the models differ, and how many times it was asked.

    Args:
        most: rows that are asked at most; more are drawn from at random.
    """
    doubtful = [at for at, row in enumerate(rows) if row.case.cloud is None and not row.same]
    asked = sorted(random.Random(seed).sample(doubtful, min(most, len(doubtful))))
    texts = ask([rows[at].case.request for at in asked]) if asked else []
    found = {at: labelled_case(rows[at].case, text) for at, text in zip(asked, texts, strict=True) if text is not None}
    told: dict[int, Case] = {at: case for at, case in found.items() if case is not None}
    share = len(told) / len(doubtful) if doubtful else 0.0
    return [_with(row, told.get(at), share) for at, row in enumerate(rows)], len(asked)


def asking(engine: Callable[[], Engine]) -> Ask:
    """Asks an engine of its own, which is closed again; a request that fails has no answer.

    Args:
        engine: makes the cloud's leg, on the event loop that will use it.
    """

    async def everything(requests: Sequence[ChatRequest]) -> list[str | None]:
        cloud, room = engine(), asyncio.Semaphore(AT_ONCE)

        async def one(request: ChatRequest) -> str | None:
            async with room:
                try:
                    made = await cloud.generate(request.cloud_prompt, request.sampling)
                except NetGPTError as why:
                    logger.warning("the cloud was asked about a held-out question and did not answer: %s", why)
                    return None
            return made.completions[0].text

        try:
            return list(await asyncio.gather(*map(one, requests)))
        finally:
            await cloud.close()

    return lambda requests: asyncio.run(everything(requests))


def _with(row: Answered, told: Case | None, share: float) -> Answered:
    """``row`` with what the cloud said; where the models differ, the chance of a label has grown by ``share``."""
    if row.same:
        return row
    case = told or row.case
    known = case.record.propensity
    return replace(row, case=replace(case, record=replace(case.record, propensity=known + (1.0 - known) * share)))
