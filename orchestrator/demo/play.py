"""Ask a site with the ``openai`` client, a few requests at a time, and judge every answer.

The player is an ordinary client: it sees what any program sees, HTTP answers and their ``netgpt`` object. Ground truth
is used here, to judge, and nowhere else; the site and the learner never see it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIError, AsyncOpenAI

from orchestrator.client import RouteInfo
from orchestrator.tasks.generator import Task
from orchestrator.tasks.verify import is_correct, is_schema_valid
from policies.toolcalls import CLOSE, OPEN, parse

CLIENTS = 6  # requests under way at once: enough to batch, few enough that latency is service and not queue
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its client saw it; ``info`` is None when it failed (``error`` says how)."""

    task: Task
    stage: str
    at_s: float
    latency_ms: float
    correct: bool
    schema_valid: bool
    info: RouteInfo | None
    error: str | None = None


Watch = Callable[[Outcome], None]


class Player:
    """Plays tasks against one endpoint.

    Args:
        url: the site's endpoint, up to and including /v1.
        watch: told about every outcome as it happens.
    """

    def __init__(self, url: str, model: str, watch: Watch) -> None:
        self._client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_S)
        self._model, self._watch = model, watch
        self._began = time.monotonic()

    async def play(self, stage: str, batch: Sequence[Task]) -> list[Outcome]:
        """Ask every task, ``CLIENTS`` at a time."""
        room = asyncio.Semaphore(CLIENTS)

        async def one(task: Task) -> Outcome:
            async with room:
                outcome = await self._ask(stage, task)
            self._watch(outcome)
            return outcome

        return list(await asyncio.gather(*map(one, batch)))

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def _ask(self, stage: str, task: Task) -> Outcome:
        began = time.monotonic()
        messages: Any = task.messages
        tools: Any = task.tools
        try:
            completion = await self._client.chat.completions.create(
                model=self._model, messages=messages, tools=tools, temperature=0.0, max_tokens=160
            )
        except APIError as why:
            return self._outcome(task, stage, began, None, None, str(why))
        info = RouteInfo.model_validate((completion.model_extra or {})["netgpt"])
        return self._outcome(task, stage, began, _answer(completion.choices[0].message), info)

    def _outcome(
        self, task: Task, stage: str, began: float, answer: str | None, info: RouteInfo | None, error: str | None = None
    ) -> Outcome:
        now = time.monotonic()
        return Outcome(
            task=task,
            stage=stage,
            at_s=began - self._began,
            latency_ms=1e3 * (now - began),
            correct=answer is not None and is_correct(task, parse(answer).calls),
            schema_valid=answer is not None and is_schema_valid(task, answer),
            info=info,
            error=error,
        )


def _answer(message: Any) -> str:
    """The answer in the tool-call syntax, exactly as the client got it."""
    calls = [
        f'{OPEN}{{"name":"{c.function.name}","arguments":{c.function.arguments}}}{CLOSE}'
        for c in message.tool_calls or []
    ]
    return (message.content or "") + "".join(calls)
