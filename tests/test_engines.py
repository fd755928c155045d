"""Both local engines on one tiny model of random weights: real vLLM, real transformers, no fakes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM

from actors.build import build_engine
from actors.engine import Engine, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.rendering import Renderer, template_message
from actors.transformers_engine import TransformersEngine
from actors.vllm_engine import VllmEngine
from policies.errors import BadConfig, BadRequest, ContextTooLong, EngineError

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

# float32, so that two implementations agree on the likeliest token of weights that know nothing.
SETTINGS = LocalSettings(dtype="float32", kv_cache_bytes=32 * 2**20)
GREEDY = Sampling(max_tokens=24)
ENDLESS = Sampling(max_tokens=900)
ASK = Prompt([{"role": "user", "content": "select clients"}])
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


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"first": tiny_model_dir(root / "first", seed=1), "second": tiny_model_dir(root / "second", seed=2)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(models: dict[str, Path]) -> AsyncIterator[VllmEngine]:
    engine = await build_engine("vllm", models["first"], "first", SETTINGS)
    assert isinstance(engine, VllmEngine)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hugging(models: dict[str, Path]) -> AsyncIterator[TransformersEngine]:
    engine = await build_engine("transformers", models["first"], "first", SETTINGS)
    assert isinstance(engine, TransformersEngine)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module", params=["vllm", "transformers"])
async def engine(
    request: pytest.FixtureRequest, vllm: VllmEngine, hugging: TransformersEngine, models: dict[str, Path]
) -> AsyncIterator[Engine]:
    """Each engine in turn, on the first weights again afterwards."""
    chosen = vllm if request.param == "vllm" else hugging
    yield chosen
    if chosen.version != "first":
        await chosen.load(models["first"], "first")


async def test_both_engines_give_the_same_greedy_answer(vllm: VllmEngine, hugging: TransformersEngine) -> None:
    ask = replace(ASK, tools=[TOOL])
    ours, theirs = await vllm.generate(ask, GREEDY), await hugging.generate(ask, GREEDY)
    assert ours.completions[0].text == theirs.completions[0].text
    assert ours.completions[0].logprobs == pytest.approx(theirs.completions[0].logprobs, abs=1e-3)
    assert (ours.prompt_tokens, ours.version) == (theirs.prompt_tokens, "first")
    assert ours.completions[0].tokens == theirs.completions[0].tokens == len(ours.completions[0].logprobs)


async def test_log_probabilities_do_not_depend_on_temperature(engine: Engine) -> None:
    hot = await engine.generate(ASK, Sampling(max_tokens=1, temperature=2.0, n=64, seed=1))
    cool = await engine.generate(ASK, Sampling(max_tokens=1, temperature=0.5, n=64, seed=2))
    # One readable token is one text; bytes and special tokens share theirs.
    known = {c.text: c.logprobs[0] for c in cool.completions if c.text and c.text.isascii()}
    shared = {c.text: c.logprobs[0] for c in hot.completions if c.text in known}
    assert shared
    assert shared == pytest.approx({text: known[text] for text in shared}, abs=1e-3)


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


async def test_new_weights_answer_exactly_like_a_fresh_engine(
    engine: Engine, hugging: TransformersEngine, models: dict[str, Path]
) -> None:
    before = await engine.generate(ASK, GREEDY)
    report = await engine.load(models["second"], "second")
    after = await engine.generate(ASK, GREEDY)
    fresh = type(engine)(models["second"], "fresh", SETTINGS)  # type: ignore[call-arg]
    await fresh.setup()  # type: ignore[attr-defined]
    try:
        assert after.completions == (await fresh.generate(ASK, GREEDY)).completions != before.completions
    finally:
        await fresh.close()
    assert (report.version, after.version) == ("second", "second")
    assert 0 < report.gap_s <= report.moments["live_s"]


async def test_a_swap_never_drops_a_request(engine: Engine, models: dict[str, Path]) -> None:
    long = Sampling(max_tokens=200, temperature=1.0, seed=11)
    running = [asyncio.create_task(engine.generate(ASK, replace(long, seed=i))) for i in range(4)]
    await asyncio.sleep(0.05)
    await engine.load(models["second"], "second")
    late = await engine.generate(ASK, GREEDY)
    generations = await asyncio.gather(*running)
    assert late.version == "second"
    assert all(g.completions[0].tokens > 0 for g in generations)


async def test_a_request_in_flight_across_a_swap_carries_the_new_version(
    vllm: VllmEngine, models: dict[str, Path]
) -> None:
    endless = asyncio.create_task(vllm.generate(ASK, ENDLESS))
    await asyncio.sleep(0.1)
    assert not endless.done()
    await vllm.load(models["second"], "second")
    assert (await endless).version == "second"
    await vllm.load(models["first"], "first")


async def test_a_swap_forgets_the_prefix_cache_of_the_old_weights(vllm: VllmEngine, models: dict[str, Path]) -> None:
    shared = Prompt([{"role": "user", "content": "select clients and move the slice " * 20}])
    first = await vllm.generate(shared, GREEDY)
    assert (await vllm.generate(shared, GREEDY)).cached_tokens > 0
    await vllm.load(models["second"], "second")
    swapped = await vllm.generate(shared, GREEDY)
    await vllm.load(models["first"], "first")
    assert swapped.cached_tokens == 0
    assert swapped.completions != first.completions
    assert (await vllm.generate(shared, GREEDY)).completions == first.completions


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "no safetensors"),
        ("torn", "second"),
        ("shape", "shape"),
        ("extra", "not in the live"),
        ("nan", "finite"),
    ],
)
async def test_weights_that_do_not_fit_leave_the_old_ones_live(
    engine: Engine, models: dict[str, Path], tmp_path: Path, damage: str, words: str
) -> None:
    bad = damaged(models["second"], tmp_path / "second", damage)
    before = await engine.generate(ASK, GREEDY)
    with pytest.raises(EngineError, match=words) as caught:
        await engine.load(bad, "bad")
    assert str(bad) in str(caught.value)
    after = await engine.generate(ASK, GREEDY)
    assert (after.version, after.completions) == ("first", before.completions)


async def test_a_reload_that_breaks_half_way_is_rolled_back(
    vllm: VllmEngine, models: dict[str, Path], tmp_path: Path
) -> None:
    """Past the check of the files: vLLM itself stumbles over them after some layers have been loaded."""
    torn = damaged(models["second"], tmp_path / "second", "shape")
    before = await vllm.generate(ASK, GREEDY)
    with pytest.raises(EngineError, match="still on"):
        await vllm._ask(lambda: vllm._swap(torn, "bad"))
    after = await vllm.generate(ASK, GREEDY)
    assert (after.version, after.completions) == ("first", before.completions)
    await vllm.load(models["second"], "second")
    assert (await vllm.generate(ASK, GREEDY)).completions != before.completions
    await vllm.load(models["first"], "first")


async def test_tied_embeddings_are_swapped_too(tmp_path: Path, models: dict[str, Path]) -> None:
    first, second = tied(models["first"], tmp_path / "first"), tied(models["second"], tmp_path / "second")
    engines = [
        await build_engine("vllm", path, path.name, replace(SETTINGS, dtype="bfloat16")) for path in (first, second)
    ]
    try:
        await engines[0].load(second, "second")
        swapped, fresh = [await engine.generate(ASK, GREEDY) for engine in engines]
        assert swapped.completions == fresh.completions
    finally:
        for engine in engines:
            await engine.close()


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


async def test_a_watch_sees_every_token_and_changes_nothing_while_it_is_content(vllm: VllmEngine) -> None:
    seen: list[float] = []
    plain = (await vllm.generate(ASK, GREEDY)).completions[0]
    watched = await vllm.generate(ASK, replace(GREEDY, watch=lambda logprob: seen.append(logprob) is not None))
    assert watched.completions[0] == plain
    assert tuple(seen[: plain.tokens]) == pytest.approx(plain.logprobs[: len(seen)])
    assert len(seen) >= plain.tokens - 1  # the last token comes with the answer itself


async def test_a_draft_that_is_given_up_ends_there_and_disturbs_nobody(vllm: VllmEngine) -> None:
    countdown = iter([False, False, True])
    plain = (await vllm.generate(ASK, GREEDY)).completions[0]
    given_up, other = await asyncio.gather(
        vllm.generate(ASK, replace(ENDLESS, watch=lambda _: next(countdown))), vllm.generate(ASK, GREEDY)
    )
    begun = given_up.completions[0]
    assert (begun.finish_reason, begun.tokens) == ("abandoned", 3)
    assert begun.logprobs == pytest.approx(plain.logprobs[:3], abs=1e-3)
    assert other.completions[0] == plain
    await vllm.generate(ASK, Sampling(max_tokens=1))
    assert not vllm._core.busy


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


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
async def test_a_missing_model_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=str(tmp_path / "nowhere")):
        await build_engine(kind, tmp_path / "nowhere", "v")


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
async def test_a_torn_model_is_named(kind: str, tmp_path: Path, models: dict[str, Path]) -> None:
    torn = damaged(models["first"], tmp_path / "torn", "torn")
    with pytest.raises(EngineError, match=str(torn)):
        await build_engine(kind, torn, "v", SETTINGS)


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
async def test_a_closed_engine_fails_what_was_running_and_what_comes(kind: str, models: dict[str, Path]) -> None:
    engine = await build_engine(kind, models["first"], "v", SETTINGS)
    running = asyncio.create_task(engine.generate(ASK, ENDLESS))
    waiting = asyncio.create_task(engine.generate(ASK, GREEDY))
    loading = asyncio.create_task(engine.load(models["second"], "second"))
    await asyncio.sleep(0)
    await engine.close()
    for task in (running, waiting, loading):
        with pytest.raises(EngineError, match="closed"):
            await task
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(ASK, GREEDY)


async def test_an_engine_that_breaks_in_a_step_fails_everybody_and_says_why(models: dict[str, Path]) -> None:
    engine = VllmEngine(models["first"], "v", SETTINGS)
    await engine.setup()

    def burst() -> None:
        raise RuntimeError("out of memory")

    running = asyncio.create_task(engine.generate(ASK, ENDLESS))
    broken = asyncio.create_task(engine._ask(burst))
    for task in (broken, running, asyncio.create_task(engine.generate(ASK, GREEDY))):
        with pytest.raises(EngineError, match="out of memory"):
            await task
    assert engine.gauges()["usable"] == 0.0
    await engine.close()


async def test_an_unknown_engine_is_named_with_the_choices() -> None:
    with pytest.raises(BadConfig, match="transformers, vllm"):
        await build_engine("llamacpp", "somewhere", "v")


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


def damaged(source: Path, target: Path, how: str) -> Path:
    """A copy of ``source`` whose weights cannot be loaded."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    state = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    if how == "missing":
        file.unlink()
    elif how == "torn":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        if how == "shape":
            state[name] = torch.zeros(64, 64, dtype=torch.bfloat16)
        elif how == "extra":
            state["surplus"] = torch.zeros(1)
        elif how == "nan":
            state[name][0, 0] = torch.nan
        save_file(state, file, metadata={"format": "pt"})
    return target


def tied(source: Path, target: Path) -> Path:
    """A copy of ``source`` whose output head is its embedding."""
    shutil.copytree(source, target)
    model = AutoModelForCausalLM.from_pretrained(source, tie_word_embeddings=True)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(target)
    assert "lm_head.weight" not in load_file(target / "model.safetensors")
    return target
