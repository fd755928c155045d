"""What other policies would have got on the same requests, for the quality-cost plot.

A request's draft is in the log unless it was skipped or abandoned: then the same weights make it here. Its cloud answer
is in the log where it was offloaded or audited, and is asked for here, directly, where it was not. With both answers,
success and price of any threshold follow exactly. What is cached of a prompt is what was in its own call, or in all
calls on the mean. This runs after the phases, for the report alone: neither the site nor the learner sees these
answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from actors.chat import ChatRequest
from actors.engine import Engine, Prompt, Sampling
from actors.log_record import OffloadRecord, from_table, to_batch
from actors.offload_log import read_log
from actors.scorer import Scorer, first_scorer
from actors.training import Draft, Sample, TrainConfig
from orchestrator.replay.reading import amounts
from orchestrator.tasks.generator import Task
from orchestrator.tasks.verify import is_correct
from policies.cost import unit_prices
from policies.toolcalls import check, parse
from policies.types import CloudSpeed, Objective, Reason, RoutingState

AT_ONCE = 8
UNFINISHED = (Reason.DRAFT_SKIPPED, Reason.DRAFT_ABANDONED)
GRID = tuple(n / 40 for n in range(41))

Offload = Callable[["Case"], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One request with both answers judged; ``price_usd`` is C_c + lambda * L_c on the link of its moment."""

    score: float
    edge_correct: bool
    cloud_correct: bool
    link_up: bool
    offloaded: bool
    price_usd: float


@dataclass(frozen=True, slots=True)
class Point:
    """A policy's mean success and mean price (dollars, priced latency included) a request."""

    name: str
    success: float
    price_usd: float


def phase_records(log_dir: Path, tasks: Iterable[Task]) -> list[tuple[Task, OffloadRecord]]:
    """The tasks of a phase with what the site logged about them."""
    records = {_question(json.loads(r.messages)): r for r in from_table(read_log(log_dir))}
    return [(task, records[key]) for task in tasks if (key := _question(task.messages)) in records]


async def missing_answers(cloud: Engine, pairs: Sequence[tuple[Task, OffloadRecord]]) -> dict[str, str]:
    """The cloud's answers to the requests it was not asked, by question."""
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(task: Task) -> tuple[str, str]:
        async with room:
            generation = await cloud.generate(Prompt(task.messages, task.tools), Sampling(max_tokens=160))
        return _question(task.messages), generation.completions[0].text

    return dict(await asyncio.gather(*(ask(task) for task, record in pairs if record.cloud is None)))


def with_whole_drafts(pairs: Sequence[tuple[Task, OffloadRecord]], edge: Path) -> list[tuple[Task, OffloadRecord]]:
    """The records with the drafts that were not made to the end, as the model in ``edge`` would have made them."""
    from actors.evaluator import Evaluator  # noqa: PLC0415  (torch loads only for the report)

    cut = [n for n, (_, record) in enumerate(pairs) if record.reason in UNFINISHED]
    if not cut:
        return list(pairs)
    samples = [Sample(pairs[n][0].messages, pairs[n][0].tools, "", 1.0) for n in cut]
    made = dict(zip(cut, Evaluator(edge, TrainConfig(threads=1)).answer(samples), strict=True))
    scorer = first_scorer(edge)
    return [(task, _whole(task, record, made.get(n), scorer)) for n, (task, record) in enumerate(pairs)]


def _whole(task: Task, record: OffloadRecord, draft: Draft | None, scorer: Scorer) -> OffloadRecord:
    if draft is None:
        return record
    valid = check(parse(draft.text), task.tools, False) is None
    score = scorer.judge(ChatRequest(task.messages).question, len(task.tools), draft.logprobs, valid)
    return replace(record, draft=draft.text, draft_tokens=len(draft.logprobs), score=score)


def cases(
    pairs: Sequence[tuple[Task, OffloadRecord]], answers: Mapping[str, str], objective: Objective, speed: CloudSpeed
) -> list[Case]:
    """Judge both answers of every request, and price the cloud's as a replay does."""
    records = [record for _, record in pairs]
    states = [RoutingState(record.link, record.prices, record.queue_s) for record in records]
    paid = amounts(pa.Table.from_batches([to_batch(records)]))
    prices = (unit_prices(states, speed, objective) * paid).sum(axis=1)
    texts = [answers[_question(task.messages)] if record.cloud is None else record.cloud for task, record in pairs]
    return [
        Case(
            score=record.score,
            edge_correct=is_correct(task, parse(record.draft).calls),
            cloud_correct=is_correct(task, parse(text).calls),
            link_up=record.link.up,
            offloaded=record.route == "cloud",
            price_usd=float(price_usd),
        )
        for (task, record), text, price_usd in zip(pairs, texts, prices, strict=True)
    ]


def frontier(given: Sequence[Case]) -> dict[str, list[Point]]:
    """Edge-only, cloud-only, every fixed threshold, and what was really done."""
    return {
        "edge only": [_point("edge only", given, lambda _: False)],
        "cloud only": [_point("cloud only", given, lambda _: True)],
        "fixed thresholds": [_fixed(given, tau) for tau in GRID],
        "link-aware threshold": [_point("link-aware threshold", given, lambda case: case.offloaded)],
    }


def _fixed(given: Sequence[Case], tau: float) -> Point:
    return _point(f"{tau:.3f}", given, lambda case: case.score < tau)


def _point(name: str, given: Sequence[Case], offload: Offload) -> Point:
    """With the link down there is no cloud, whatever the policy says."""
    sent = [case.link_up and offload(case) for case in given]
    right = [case.cloud_correct if away else case.edge_correct for case, away in zip(given, sent, strict=True)]
    paid = [case.price_usd for case, away in zip(given, sent, strict=True) if away]
    return Point(name, sum(right) / len(given), sum(paid) / len(given))


def _question(messages: Sequence[Mapping[str, object]]) -> str:
    return json.dumps([message["content"] for message in messages])
