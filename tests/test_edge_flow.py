"""An answer of the edge that nothing competes with: it flows while it is written, and stays what it began as."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from edge_fakes import DOWN, GOOD, NORTH, SOUTH, SURE, UNSURE, WEST, FakeEngine, NodeKit, SpeakingEngine, ask, until
from engine_kit import ASK, ENDLESS, GREEDY, engine_fixture, hugging_fixture, models_fixture, vllm_fixture  # noqa: F401
from openai import AsyncOpenAI
from test_flow import next_delta
from test_http import body, serving

from actors.controls import Controls
from actors.engine import Completion, Engine
from policies.errors import BadRequest, EngineError, Refused
from policies.help_marker import HELP
from policies.types import Decision, Reason, Route, ToolCall

PRIVATE = {"netgpt": {"private": True}}


class Heard:
    """A listener that remembers, and does something when the first word comes."""

    def __init__(self, first: Callable[[], None] = lambda: None) -> None:
        self.begun: list[tuple[Route, Decision | None]] = []
        self.text, self.calls, self._first = "", [], first  # type: ignore[var-annotated]

    async def begin(self, route: Route, decision: Decision | None) -> None:
        self.begun.append((route, decision))
        self._first()

    async def prose(self, text: str) -> None:
        self.text += text

    async def call(self, call: ToolCall) -> None:
        self.calls.append(call)


async def test_an_answer_that_stays_flows_and_one_that_has_to_be_judged_waits() -> None:
    for controls, flows in ((Controls(private=True), True), (Controls(route=Route.EDGE), True), (Controls(), False)):
        kit, heard = NodeKit(SpeakingEngine("On it. ", NORTH, SOUTH)), Heard()
        await kit.node.answer(ask(controls=controls), heard)
        assert heard.begun == ([(Route.EDGE, None)] if flows else [])
        assert (heard.text, len(heard.calls)) == (("On it.", 2) if flows else ("", 0))


@pytest.mark.parametrize("path", ["chat", "responses"])
async def test_the_first_words_come_before_the_last_are_written(path: str) -> None:
    edge = SpeakingEngine("First", " and last.")
    edge.last = asyncio.Event()
    kit = NodeKit(edge, edge_only=True)
    async with serving(kit) as site, AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        if path == "chat":
            async with site.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as got:
                assert got.headers["x-netgpt-route"] == "edge" and "x-netgpt-score" not in got.headers
                lines = got.aiter_lines()
                assert [await next_delta(lines) for _ in range(2)][1] == {"content": "First"}
                edge.last.set()
                assert await next_delta(lines) == {"content": " and last."}
        else:
            said = []
            async for event in await client.responses.create(model="netgpt", input="hi", stream=True):
                if event.type == "response.output_text.delta":
                    said.append(event.delta)
                    edge.last.set()
            assert said == ["First", " and last."]
    assert [record.answer for record in kit.log.records] == ["First and last."]


async def test_what_began_at_the_edge_stays_there_when_the_link_comes_back() -> None:
    kit = NodeKit(SpeakingEngine("Just ", "words."), link=DOWN, threshold=1.0)
    heard = Heard(first=lambda: setattr(kit.link, "now", GOOD))
    answer = await kit.node.answer(ask(), heard)
    assert (answer.route, answer.reason, answer.decision.propensity) == (Route.EDGE, Reason.LINK_DOWN, 0.0)
    assert kit.cloud.asked == []
    assert [record.answer for record in kit.log.records] == ["Just words."]


@pytest.mark.parametrize("parts", [("On it.", WEST), ("On it. ", HELP)])
async def test_an_answer_that_turns_out_to_be_none_breaks_off(parts: tuple[str, ...]) -> None:
    kit, heard = NodeKit(SpeakingEngine(*parts), edge_only=True), Heard()
    with pytest.raises(EngineError, match="broke off"):
        await kit.node.answer(ask(), heard)
    assert (heard.text, heard.calls) == ("On it.", [])
    async with serving(NodeKit(SpeakingEngine(*parts), edge_only=True)) as site:
        reply = await site.client.post("/v1/chat/completions", json=body(stream=True))
    assert "answer_broke_off" in reply.text and "external" not in reply.text.split("answer_broke_off")[0]


CUT = NORTH + SOUTH[:20]


def cut_off(text: str) -> Completion:
    return Completion(text, SURE, "length", 8)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("On it. " + CUT, "On it.", 1),
        (CUT, "", 1),
        (SOUTH[:20], "", 0),
        (f"On {WEST}{CUT}", None, 0),
    ],
)
async def test_an_answer_that_its_length_cuts_is_served_as_far_as_it_is_whole(
    text: str, content: str | None, calls: int
) -> None:
    for flows in (False, True):
        edge = SpeakingEngine(text) if flows else FakeEngine()
        edge.reply = lambda prompt: EngineError("no grammar") if prompt.schema else cut_off(text)
        kit, heard = NodeKit(edge, edge_only=True), Heard()
        if content is None:
            with pytest.raises(EngineError, match="broke off" if flows else "no answer"):
                await kit.node.answer(ask(), heard)
            continue
        answer = await kit.node.answer(ask(), heard)
        assert (answer.served.parsed.content, len(answer.served.parsed.calls)) == (content, calls)
        assert answer.served.finish_reason == "length" and len(kit.log.records) == 1
        if flows:
            assert (heard.text, len(heard.calls)) == (content, calls)


async def test_tags_that_make_up_no_call_are_text_where_no_tool_is_offered() -> None:
    kit, heard = NodeKit(SpeakingEngine("Paris", "</tool_call> it is."), edge_only=True), Heard()
    answer = await kit.node.answer(ask(tools=()), heard)
    assert answer.served.parsed.content == "Paris</tool_call> it is."
    assert answer.served.parsed.content.startswith(heard.text) and heard.text
    with pytest.raises(Refused):
        await NodeKit(FakeEngine(NORTH), edge_only=True).node.answer(ask(tools=()))


async def test_nothing_of_an_answer_without_a_good_word_is_heard_and_the_grammar_helps() -> None:
    kit, heard = NodeKit(FakeEngine(lambda prompt: NORTH if prompt.schema else HELP), edge_only=True), Heard()
    answer = await kit.node.answer(ask(), heard)
    assert heard.begun == [] and answer.served.parsed.calls == (ToolCall("move_slice", {"to": "north"}),)


async def test_a_draft_made_because_the_cloud_failed_flows_too() -> None:
    gone, to_cloud, heard = FakeEngine(EngineError("gone")), ask(controls=Controls(route=Route.CLOUD)), Heard()
    answer = await NodeKit(SpeakingEngine("From ", "the edge."), gone).node.answer(to_cloud, heard)
    assert (answer.reason, heard.text) == (Reason.CLOUD_FAILED, "From the edge.")
    assert heard.begun == [(Route.EDGE, None)]
    with pytest.raises(EngineError, match="broke off"):
        await NodeKit(SpeakingEngine("From ", WEST), gone).node.answer(to_cloud, Heard())


async def test_of_several_samples_none_flows() -> None:
    kit = NodeKit(SpeakingEngine("a", "b"), edge_only=True)
    kit.node._drafter._options = replace(kit.node.options.drafting, samples=2)
    heard = Heard()
    await kit.node.answer(ask(), heard)
    assert heard.begun == []


async def test_a_client_that_leaves_ends_the_draft() -> None:
    edge = SpeakingEngine("First", " and last.")
    edge.last = asyncio.Event()
    async with serving(NodeKit(edge, FakeEngine(logprobs=UNSURE))) as site:
        async with site.client.stream("POST", "/v1/chat/completions", json=body(stream=True, **PRIVATE)) as got:
            await next_delta(got.aiter_lines())
        await until(lambda: edge.cancelled == 1)


# Real engines


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("stop", [(), (" a", "zz")])
async def test_what_is_heard_is_the_beginning_of_the_answer(engine: Engine, stop: tuple[str, ...]) -> None:
    sampling = replace(ENDLESS, max_tokens=200, temperature=1.0, seed=3, stop=stop)
    plain = await engine.generate(ASK, sampling)
    parts: list[str] = []

    async def hear(text: str) -> None:
        parts.append(text)
        await asyncio.sleep(0.02)  # a listener that takes its time

    heard = await engine.generate(replace(ASK, prefill="<"), replace(sampling, hear=hear))
    assert heard.completions[0].text.startswith("".join(parts))
    assert parts[0].startswith("<") and len(parts) > 1
    parts.clear()
    assert (await engine.generate(ASK, replace(sampling, hear=hear))).completions == plain.completions
    assert plain.completions[0].text.startswith("".join(parts))


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_a_listener_that_fails_ends_its_answer_alone(engine: Engine) -> None:
    async def hear(text: str) -> None:
        raise BadRequest(f"enough of {text!r}")

    with pytest.raises(BadRequest, match="enough"):
        await engine.generate(ASK, replace(ENDLESS, hear=hear))
    await until(lambda: engine.gauges()["pending"] == 0.0)  # type: ignore[attr-defined]
    assert (await engine.generate(ASK, GREEDY)).completions[0].text
