"""What the tests of the local engines share: one tiny model of random weights in real vLLM and real transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tiny_model import tiny_model_dir

from actors.build import build_engine
from actors.engine import Engine, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.transformers_engine import TransformersEngine
from actors.vllm_engine import VllmEngine

# float32, so that two implementations agree on the likeliest token of weights that know nothing.
SETTINGS = LocalSettings(dtype="float32", kv_cache_bytes=32 * 2**20)
GREEDY = Sampling(max_tokens=24)
ENDLESS = Sampling(max_tokens=900)
ASK = Prompt([{"role": "user", "content": "select clients"}])


@pytest.fixture(name="models", scope="module")
def models_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model_dir(root / name, seed, endless=True) for seed, name in enumerate(("first", "second"), 1)}


@pytest_asyncio.fixture(name="vllm", scope="module", loop_scope="module")
async def vllm_fixture(models: dict[str, Path]) -> AsyncIterator[VllmEngine]:
    engine = await build_engine("vllm", models["first"], "first", SETTINGS)
    assert isinstance(engine, VllmEngine)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(name="hugging", scope="module", loop_scope="module")
async def hugging_fixture(models: dict[str, Path]) -> AsyncIterator[TransformersEngine]:
    engine = await build_engine("transformers", models["first"], "first", SETTINGS)
    assert isinstance(engine, TransformersEngine)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(name="engine", loop_scope="module", params=["vllm", "transformers"])
async def engine_fixture(
    request: pytest.FixtureRequest, vllm: VllmEngine, hugging: TransformersEngine, models: dict[str, Path]
) -> AsyncIterator[Engine]:
    """Each engine in turn, on the first weights again afterwards."""
    chosen = vllm if request.param == "vllm" else hugging
    yield chosen
    if chosen.version != "first":
        await chosen.load(models["first"], "first")
