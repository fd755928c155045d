"""What both local engines answer, on one tiny model of random weights: real vLLM, real transformers, no fakes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from engine_kit import ASK, ENDLESS, GREEDY, engine_fixture, hugging_fixture, models_fixture, vllm_fixture  # noqa: F401

from actors.engine import Engine, Prompt, Sampling
from actors.grammar import json_grammar
from actors.rendering import Renderer, template_message
from actors.transformers_engine import TransformersEngine
from actors.vllm_engine import VllmEngine
from policies.errors import BadRequest, ContextTooLong, EngineError

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

TOOL = {
    "type": "function",
    "function": {"name": "move_slice", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}},
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["move", "select"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "count"],
    "additionalProperties": False,
}


class Patient:
    """A watch that remembers what it was told and gives up at the ``most``-th token; never by default."""

    def __init__(self, most: int = 0) -> None:
        self.seen: list[float] = []
        self._most = most

    def __call__(self, logprob: float) -> bool:
        self.seen.append(logprob)
        return len(self.seen) == self._most


async def test_both_engines_give_the_same_greedy_answer(vllm: VllmEngine, hugging: TransformersEngine) -> None:
    ask = replace(ASK, tools=[TOOL])
    ours, theirs = await vllm.generate(ask, GREEDY), await hugging.generate(ask, GREEDY)
    assert ours.completions[0].text == theirs.completions[0].text
    assert ours.completions[0].logprobs == pytest.approx(theirs.completions[0].logprobs, abs=1e-3)
    assert (ours.prompt_tokens, ours.version) == (theirs.prompt_tokens, "first")
    assert ours.completions[0].tokens == theirs.completions[0].tokens == len(ours.completions[0].logprobs)


async def test_tokens_are_named_with_their_alternatives_where_that_is_asked_for(
    vllm: VllmEngine, hugging: TransformersEngine
) -> None:
    assert (await vllm.generate(ASK, GREEDY)).completions[0].named == ()
    asked = replace(GREEDY, alternatives=3)
    ours, theirs = [(await engine.generate(ASK, asked)).completions[0] for engine in (vllm, hugging)]
    for answer in (ours, theirs):
        assert tuple(token.logprob for token in answer.named) == answer.logprobs
        assert all(
            [lp for _, lp in token.top] == sorted((lp for _, lp in token.top), reverse=True) for token in answer.named
        )
        assert all(token.top[0] == (token.text, pytest.approx(token.logprob)) for token in answer.named)  # greedy
        assert {len(token.top) for token in answer.named} == {3}
    pairs = [(one.text, other.text) for one, other in zip(ours.named, theirs.named, strict=True)]
    readable = [pair for pair in pairs if all(pair)]  # a token that is half a character has no text of its own
    assert readable and all(one == other for one, other in readable)
    bare = (await vllm.generate(ASK, replace(GREEDY, alternatives=0))).completions[0]
    assert [token.text for token in bare.named] == [token.text for token in ours.named]
    assert {token.top for token in bare.named} == {()}


async def test_a_watch_sees_the_chosen_tokens_whatever_alternatives_are_named(engine: Engine) -> None:
    watch = Patient()
    completion = (await engine.generate(ASK, replace(GREEDY, alternatives=2, watch=watch))).completions[0]
    assert watch.seen == pytest.approx(list(completion.logprobs[: len(watch.seen)]))


async def test_log_probabilities_do_not_depend_on_temperature(engine: Engine) -> None:
    hot = await engine.generate(ASK, Sampling(max_tokens=1, temperature=2.0, n=64, seed=1))
    cool = await engine.generate(ASK, Sampling(max_tokens=1, temperature=0.5, n=64, seed=2))
    # One readable token is one text; bytes and special tokens share theirs.
    known = {c.text: c.logprobs[0] for c in cool.completions if c.text and c.text.isascii()}
    shared = {c.text: c.logprobs[0] for c in hot.completions if c.text in known}
    assert shared
    assert shared == pytest.approx({text: known[text] for text in shared}, abs=1e-3)


@pytest.mark.parametrize(
    "penalties", [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0, "frequency_penalty": -0.5}]
)
async def test_both_engines_penalise_alike_and_tell_log_probabilities_without(
    vllm: VllmEngine, hugging: TransformersEngine, penalties: dict[str, float]
) -> None:
    asked = replace(GREEDY, **penalties)  # type: ignore[arg-type]
    plain, ours, theirs = (
        await vllm.generate(ASK, GREEDY),
        await vllm.generate(ASK, asked),
        await hugging.generate(ASK, asked),
    )
    assert ours.completions[0].text == theirs.completions[0].text != plain.completions[0].text
    assert ours.completions[0].logprobs == pytest.approx(theirs.completions[0].logprobs, abs=1e-3)
    assert ours.completions[0].logprobs[0] == pytest.approx(plain.completions[0].logprobs[0], abs=1e-3)


async def test_a_seed_repeats_its_samples_and_they_differ(engine: Engine) -> None:
    drawn = Sampling(max_tokens=12, temperature=1.0, n=3, seed=7)
    once, again = await engine.generate(ASK, drawn), await engine.generate(ASK, drawn)
    assert [c.text for c in once.completions] == [c.text for c in again.completions]
    assert len({c.text for c in once.completions}) == 3


async def test_greedy_samples_are_repeated_not_refused(engine: Engine) -> None:
    generation = await engine.generate(ASK, replace(GREEDY, n=2))
    assert len(generation.completions) == 2
    assert generation.completions[0].text == generation.completions[1].text


async def test_generation_ends_before_a_stop_string(engine: Engine) -> None:
    whole = (await engine.generate(ASK, GREEDY)).completions[0].text
    stop = whole[4:6]
    generation = await engine.generate(ASK, replace(GREEDY, stop=(stop,)))
    assert generation.completions[0].text == whole[: whole.index(stop)]
    assert generation.completions[0].finish_reason == "stop"


async def test_a_length_limit_is_told_apart_from_an_end(engine: Engine) -> None:
    completion = (await engine.generate(ASK, Sampling(max_tokens=3, seed=3, temperature=1))).completions[0]
    assert (completion.tokens, completion.finish_reason) == (3, "length")


async def test_random_weights_obey_a_schema(engine: Engine) -> None:
    drawn = Sampling(max_tokens=128, temperature=1.0, n=4, seed=5)
    generation = await engine.generate(replace(ASK, schema=SCHEMA), drawn)
    for completion in generation.completions:
        jsonschema.validate(json.loads(completion.text), SCHEMA)
    assert 0.0 in generation.completions[0].logprobs  # tokens the grammar forced


async def test_a_grammar_holds_numbers_within_what_a_float_can_be() -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string as accepts

    number = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    grammar = Grammar.from_ebnf(json_grammar({**number, "additionalProperties": False}))
    for good in ("0", "-7", "1.5", "-4E86", "123456789012345678", "0.1234567890"):
        assert accepts(grammar, f'{{"n":{good}}}'), good
    for bad in ("-4E866", "1" * 400, "1." + "1" * 400, "01", "NaN"):
        assert not accepts(grammar, f'{{"n":{bad}}}'), bad


async def test_a_prefill_begins_the_answer_and_a_schema_ends_it(engine: Engine) -> None:
    generation = await engine.generate(replace(ASK, schema=SCHEMA, prefill="<tool_call>"), Sampling(max_tokens=128))
    text = generation.completions[0].text
    assert text.startswith("<tool_call>{")
    jsonschema.validate(json.loads(text.removeprefix("<tool_call>")), SCHEMA)


async def test_a_value_vllm_refuses_fails_its_own_request_only(vllm: VllmEngine) -> None:
    with pytest.raises(BadRequest, match="temperature"):
        await vllm.generate(ASK, Sampling(temperature=5.0))
    assert (await vllm.generate(ASK, GREEDY)).completions


async def test_an_impossible_schema_is_the_callers_mistake(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="schema"):
        await engine.generate(replace(ASK, schema={"type": "nonsense"}), GREEDY)


async def test_a_prompt_beyond_the_context_never_reaches_the_model(engine: Engine) -> None:
    long = Prompt([{"role": "user", "content": "move slice " * 600}])
    with pytest.raises(ContextTooLong) as caught:
        await engine.generate(long, GREEDY)
    assert caught.value.field == "messages"


async def test_an_answer_takes_what_its_prompt_leaves_of_the_context(engine: Engine) -> None:
    long = Prompt([{"role": "user", "content": "move slice " * 230}])
    answer = await engine.generate(long, ENDLESS)
    [completion] = answer.completions
    assert completion.finish_reason == "length"
    assert answer.prompt_tokens + completion.tokens == 1024 < answer.prompt_tokens + ENDLESS.max_tokens


async def test_a_cancelled_request_is_aborted(engine: Engine) -> None:
    endless = asyncio.create_task(engine.generate(ASK, replace(ENDLESS, n=4, temperature=1)))
    await asyncio.sleep(0.1)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    await engine.generate(ASK, Sampling(max_tokens=1))  # what still ran would hold this up
    assert engine.gauges() == {"pending": 0.0, "usable": 1.0}  # type: ignore[attr-defined]
    if isinstance(engine, VllmEngine):
        assert not engine._core.busy


@pytest.mark.parametrize("end", ["length", "stop"])
async def test_a_watch_sees_every_token_but_the_last_and_changes_nothing_while_it_is_content(
    engine: Engine, end: str
) -> None:
    """The token that ends an answer comes with it: there is nothing left to give up."""
    whole = (await engine.generate(ASK, GREEDY)).completions[0].text
    sampling = GREEDY if end == "length" else replace(GREEDY, stop=(whole[4:6],))
    plain = (await engine.generate(ASK, sampling)).completions[0]
    watch = Patient()
    assert (await engine.generate(ASK, replace(sampling, watch=watch))).completions[0] == plain
    assert plain.finish_reason == end
    assert watch.seen == pytest.approx(plain.logprobs[:-1])


async def test_a_draft_that_is_given_up_ends_there_and_disturbs_nobody(engine: Engine) -> None:
    plain = (await engine.generate(ASK, GREEDY)).completions[0]
    given_up, other = await asyncio.gather(
        engine.generate(ASK, replace(ENDLESS, watch=Patient(3))), engine.generate(ASK, GREEDY)
    )
    begun = given_up.completions[0]
    assert (begun.finish_reason, begun.tokens) == ("abandoned", 3)
    assert begun.logprobs == pytest.approx(plain.logprobs[:3], abs=1e-3)
    assert begun.text and plain.text.startswith(begun.text)
    assert other.completions[0] == plain
    await engine.generate(ASK, Sampling(max_tokens=1))  # what still ran would hold this up
    if isinstance(engine, VllmEngine):
        assert not engine._core.busy


async def test_a_watch_sees_what_the_grammar_forces_and_is_told_of_no_token_after_it_gave_up(engine: Engine) -> None:
    watch = Patient(4)
    sampling = Sampling(max_tokens=128, watch=watch)
    given_up = (await engine.generate(replace(ASK, schema=SCHEMA), sampling)).completions[0]
    assert (given_up.finish_reason, given_up.tokens, len(watch.seen)) == ("abandoned", 4, 4)
    assert watch.seen == pytest.approx(given_up.logprobs) and 0.0 in watch.seen


async def test_greedy_samples_are_given_up_together(engine: Engine) -> None:
    generation = await engine.generate(ASK, replace(GREEDY, n=2, watch=Patient(1)))
    assert [(one.tokens, one.finish_reason) for one in generation.completions] == [(1, "abandoned")] * 2


async def test_the_event_loop_stays_free_while_the_model_runs(vllm: VllmEngine) -> None:
    running = asyncio.create_task(vllm.generate(ASK, Sampling(max_tokens=300)))
    turns = 0
    while not running.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 20


async def test_requests_together_answer_like_requests_alone(vllm: VllmEngine) -> None:
    asks = [Prompt([{"role": "user", "content": f"move slice {i}"}]) for i in range(8)]
    together = await asyncio.gather(*(vllm.generate(ask, GREEDY) for ask in asks))
    alone = [await vllm.generate(ask, GREEDY) for ask in asks]
    assert [g.completions[0].text for g in together] == [g.completions[0].text for g in alone]


async def test_too_many_requests_are_refused_at_once(vllm: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.vllm_engine.MAX_PENDING", 1)
    first = asyncio.create_task(vllm.generate(ASK, GREEDY))
    await asyncio.sleep(0)
    with pytest.raises(EngineError, match="already waiting"):
        await vllm.generate(ASK, GREEDY)
    await first


async def test_tool_calls_and_parts_are_rendered_as_templates_expect(models: dict[str, Path]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "move_slice", "arguments": '{"to": "north"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "move "}, {"type": "text", "text": "slice"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    renderer = Renderer(models["first"], None)
    ids = renderer.render(Prompt(messages, tools=[TOOL], prefill="<tool_call>"), 10)
    text = renderer.tokenizer.decode(ids)
    assert '<tool_call>{"name":"move_slice","arguments":{"to":"north"}}</tool_call>' in text
    assert "move slice" in text
    assert text.endswith("<tool_call>")
    assert renderer.context == 1024


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": 5}, "messages[3].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[3].content[0].type"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[3].tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "[1]"}}]},
            "messages[3].tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]},
            "messages[3].tool_calls[0].function",
        ),
    ],
)
async def test_a_message_no_template_can_render_names_its_field(message: dict[str, object], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        template_message(3, message)
    assert caught.value.field == field
