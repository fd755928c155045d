"""The cloud as several endpoints: who is asked, who is asked next, what is asked once and what twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_fakes import UNSURE, FakeEngine, NodeKit, ask, until
from test_breaker import ANSWER, ASK, GREEDY, Scripted
from test_http import listening
from test_remote_engine import SETTINGS, Cloud, completion

from actors.build import CloudEndpoint, build_cloud
from actors.engine import Engine, Generation, Prompt, Sampling
from actors.hedging import LEAST, Hedged
from actors.single_flight import SingleFlight
from actors.upstreams import Upstream, Upstreams
from orchestrator.cloud_leg import cloud_leg
from orchestrator.config import default_config
from policies.errors import BadConfig, EngineError, Refused, Unreachable

DEAD = Unreachable("dead")


class Held:
    """An engine that answers when it is told to, or raises what it is told."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Generation]] = []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        self.calls.append(asyncio.get_running_loop().create_future())
        return await self.calls[-1]

    async def load(self, path: Path, version: str) -> Any:
        raise EngineError("no")

    async def close(self) -> None:
        pass


# Several endpoints


async def test_load_is_shared_by_weight() -> None:
    engines = [Scripted(), Scripted(), Scripted()]
    many = Upstreams([Upstream(e, w) for e, w in zip(engines, (1.0, 3.0, 6.0), strict=True)], random.Random(0))
    for _ in range(2000):
        await many.generate(ASK, GREEDY)
    shares = [engine.calls / 2000 for engine in engines]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


async def test_a_higher_tier_is_asked_when_no_lower_one_answers() -> None:
    first, second, last = Scripted(DEAD), Scripted(Refused("busy", 503)), Scripted()
    many = Upstreams([Upstream(last, 100.0, 1), Upstream(first), Upstream(second)])
    assert await many.generate(ASK, GREEDY) is ANSWER
    assert (first.calls, second.calls, last.calls) == (1, 1, 1)
    await many.generate(ASK, GREEDY)
    assert last.calls == 1


async def test_what_the_caller_did_wrong_is_asked_once() -> None:
    first, second = Scripted(Refused("no such model", 404)), Scripted()
    with pytest.raises(Refused, match="no such model"):
        await Upstreams([Upstream(first), Upstream(second, tier=1)]).generate(ASK, GREEDY)
    assert second.calls == 0


async def test_the_last_failure_is_told_when_nobody_answers() -> None:
    many = Upstreams([Upstream(Scripted(DEAD)), Upstream(Scripted(Refused("later", 503)), tier=1)])
    with pytest.raises(Refused, match="later"):
        await many.generate(ASK, GREEDY)


# One call for equal questions


async def test_equal_questions_at_the_same_time_are_asked_once_and_paid_once() -> None:
    inner = Held()
    shared = SingleFlight(inner)
    asking = [asyncio.create_task(shared.generate(ASK, GREEDY)) for _ in range(5)]
    await until(lambda: len(inner.calls) == 1)
    await asyncio.sleep(0.01)
    inner.calls[0].set_result(ANSWER)
    answers = await asyncio.gather(*asking)
    assert len(inner.calls) == 1
    assert Counter(answer.shared for answer in answers) == {True: 4, False: 1}
    again = asyncio.create_task(shared.generate(ASK, GREEDY))
    await until(lambda: len(inner.calls) == 2)  # later it is a question of its own
    inner.calls[1].set_result(ANSWER)
    assert not (await again).shared


OTHERS = [
    replace(GREEDY, max_tokens=9), replace(GREEDY, stop=("x",)), replace(GREEDY, alternatives=1),
    replace(GREEDY, temperature=1.0), replace(GREEDY, watch=lambda _: False),
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
async def test_what_may_be_answered_otherwise_is_asked_by_itself(other: Sampling) -> None:
    inner = Held()
    shared = SingleFlight(inner)
    asking = [asyncio.create_task(shared.generate(ASK, sampling)) for sampling in (GREEDY, other, other)]
    same = other.watch is None and other.temperature == 0.0
    await until(lambda: len(inner.calls) == (2 if same else 3))
    for call in inner.calls:
        call.set_result(ANSWER)
    await asyncio.gather(*asking)


async def test_who_leaves_does_not_end_the_others_call_and_the_last_one_does() -> None:
    inner = Held()
    shared = SingleFlight(inner)
    asking = [asyncio.create_task(shared.generate(ASK, GREEDY)) for _ in range(3)]
    await until(lambda: len(inner.calls) == 1)
    asking[0].cancel()
    await asyncio.sleep(0.01)
    assert not inner.calls[0].cancelled()
    inner.calls[0].set_result(ANSWER)
    assert [answer.shared for answer in await asyncio.gather(*asking[1:])] == [False, True]
    last = asyncio.create_task(shared.generate(ASK, GREEDY))
    await until(lambda: len(inner.calls) == 2)
    last.cancel()
    await asyncio.gather(last, return_exceptions=True)
    await until(inner.calls[1].cancelled)


async def test_a_failure_is_everybodys_and_is_not_remembered() -> None:
    inner = Held()
    shared = SingleFlight(inner)
    asking = [asyncio.create_task(shared.generate(ASK, GREEDY)) for _ in range(2)]
    await until(lambda: len(inner.calls) == 1)
    inner.calls[0].set_exception(DEAD)
    assert await asyncio.gather(*asking, return_exceptions=True) == [DEAD, DEAD]
    again = asyncio.create_task(shared.generate(ASK, GREEDY))
    await until(lambda: len(inner.calls) == 2)
    inner.calls[1].set_result(ANSWER)
    await again


async def test_a_node_pays_a_shared_call_once_and_answers_everybody() -> None:
    cloud = FakeEngine("Done.", version="cloud-1")
    cloud.gate = asyncio.Event()
    kit = NodeKit(FakeEngine(logprobs=UNSURE), SingleFlight(cloud))  # type: ignore[arg-type]
    asking = [asyncio.create_task(kit.node.answer(ask(request_id=f"r{n}"))) for n in range(3)]
    await until(lambda: len(cloud.asked) == 1)
    await asyncio.sleep(0.01)
    cloud.gate.set()
    answers = await asyncio.gather(*asking)
    assert [answer.served.text for answer in answers] == ["Done."] * 3
    assert sorted(answer.cost_usd > 0 for answer in answers) == [False, False, True]
    assert len(kit.link.offloads) == 1
    assert {record.cloud for record in kit.log.records} == {"Done."} and len(kit.log.records) == 3


# A second call for stragglers


async def hedged_after_warm_up(*script: Any, share: float = 0.5) -> tuple[Hedged, Scripted]:
    inner = Scripted(*[0.001] * LEAST, *script)
    hedged = Hedged(inner, share)
    for _ in range(LEAST):
        await hedged.generate(ASK, GREEDY)
    return hedged, inner


async def test_a_straggler_is_asked_twice_and_the_first_answer_counts() -> None:
    hedged, inner = await hedged_after_warm_up(5.0, 0.001)
    assert await asyncio.wait_for(hedged.generate(ASK, GREEDY), 1.0) is ANSWER
    assert (hedged.hedged, inner.calls) == (1, LEAST + 2)


async def test_a_second_call_that_fails_does_not_spoil_the_first() -> None:
    hedged, _ = await hedged_after_warm_up(0.1, DEAD)
    assert await hedged.generate(ASK, GREEDY) is ANSWER


async def test_where_both_fail_a_failure_is_told() -> None:
    hedged, _ = await hedged_after_warm_up(DEAD)
    with pytest.raises(Unreachable):
        await hedged.generate(ASK, GREEDY)


async def test_no_more_than_the_share_is_asked_twice() -> None:
    hedged, inner = await hedged_after_warm_up(*[0.03] * 300, share=0.1)
    calls = 60
    for _ in range(calls):
        await hedged.generate(ASK, GREEDY)
    assert hedged.hedged <= 5 + 0.1 * (LEAST + calls)
    assert inner.calls == LEAST + calls + hedged.hedged


async def test_who_listens_is_told_once() -> None:
    hedged, inner = await hedged_after_warm_up(0.05)

    async def hear(_: str) -> None: ...

    await hedged.generate(ASK, replace(GREEDY, hear=hear))
    assert (hedged.hedged, inner.calls) == (0, LEAST + 1)


async def test_who_leaves_cancels_both_calls() -> None:
    inner = Held()
    hedged = Hedged(inner, 0.5)
    hedged._seconds.extend([0.001] * LEAST)
    asking = asyncio.create_task(hedged.generate(ASK, GREEDY))
    await until(lambda: len(inner.calls) == 2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert all(call.cancelled() for call in inner.calls)


# Put together


async def test_a_dead_endpoint_is_replaced_by_the_configured_next() -> None:
    alive = Cloud()
    alive.answer = lambda body: completion("from the second")
    async with listening(alive.app) as url:
        ends = [CloudEndpoint("http://127.0.0.1:9/v1", "big", replace(SETTINGS, attempts=1))]
        ends += [CloudEndpoint(f"{url}/v1", "other", SETTINGS, tier=1)]
        cloud: Engine = build_cloud(ends, hedge_share=0.1)
        answers = [await cloud.generate(ASK, GREEDY) for _ in range(3)]
        await cloud.close()
    assert {answer.completions[0].text for answer in answers} == {"from the second"}
    assert {body["model"] for body in alive.asked} == {"other"}


def test_a_key_that_is_missing_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [{"base_url": "https://b.example/v1", "model": "m", "api_key_env": "SECOND_KEY"}]
    cloud = {"kind": "openai", "base_url": "https://a.example/v1", "more": more}
    config = default_config(cloud=cloud, link={"kind": "direct"})
    with pytest.raises(BadConfig, match=r"cloud\.more\[0\]\.api_key_env.*SECOND_KEY"):
        cloud_leg(config, "https://a.example/v1", "big")
    monkeypatch.setenv("SECOND_KEY", "sk")
    cloud_leg(config, "https://a.example/v1", "big")


def test_a_url_that_is_none_is_named_by_its_place() -> None:
    with pytest.raises(BadConfig, match=r"cloud\.more\[0\]\.base_url"):
        default_config(cloud={"more": [{"base_url": "host:80", "model": "m"}]})
