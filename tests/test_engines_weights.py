"""The weights of both local engines: loading, swapping while requests run, refusing, closing."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_kit import ASK, ENDLESS, GREEDY, SETTINGS, engine_fixture, hugging_fixture, models_fixture, vllm_fixture  # noqa: F401
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.build import build_engine
from actors.engine import Engine, Prompt, Sampling
from actors.transformers_engine import TransformersEngine
from actors.vllm_engine import VllmEngine
from policies.errors import BadConfig, EngineError

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


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
