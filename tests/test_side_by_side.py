"""One vLLM engine with several sites' adapters beside each other: each request is answered by the one it names."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from engine_kit import ASK, ENDLESS, GREEDY, SETTINGS
from test_lora import damaged
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM

from actors.build import build_engine
from actors.lora import Adapter
from actors.side_by_side import SideBySide, SiteEngine
from policies.errors import EngineError

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def adapter_dir(base: Path, target: Path, seed: int, rank: int = 4) -> Path:
    """An adapter of random numbers, large enough to change every answer."""
    torch.manual_seed(seed)
    adapter = Adapter(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), base, rank)
    for name, parameter in adapter.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    shutil.copytree(base, target, ignore=shutil.ignore_patterns("*.safetensors"))
    adapter.save(target)
    return target


@pytest.fixture(name="dirs", scope="module")
def dirs_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("beside")
    base = tiny_model_dir(root / "base", seed=1)
    made = {name: adapter_dir(base, root / name, seed) for seed, name in enumerate(("north", "south", "newer"))}
    return {"base": base, **made, "large": adapter_dir(base, root / "large", 7, rank=16)}


@pytest_asyncio.fixture(name="host", scope="module", loop_scope="module")
async def host_fixture(dirs: dict[str, Path]) -> AsyncIterator[SideBySide]:
    host = SideBySide(dirs["base"], "base", 2, rank=4, settings=SETTINGS)
    await host.setup()
    yield host
    await host.engine.close()


@pytest_asyncio.fixture(name="sites", loop_scope="module")
async def sites_fixture(host: SideBySide, dirs: dict[str, Path]) -> dict[str, SiteEngine]:
    sites = {name: host.site() for name in ("north", "south")}
    for name, site in sites.items():
        assert (await site.load(dirs[name], name)).version == name
    return sites


async def test_each_site_answers_as_its_own_merged_model_would(
    host: SideBySide, sites: dict[str, SiteEngine], dirs: dict[str, Path]
) -> None:
    found = {"base": await host.site().generate(ASK, GREEDY)}
    together = await asyncio.gather(*(site.generate(ASK, GREEDY) for site in sites.values()))  # in one batch
    found |= dict(zip(sites, together, strict=True))
    for name, generation in found.items():
        merged = await build_engine("transformers", dirs[name], name, SETTINGS)
        reference = await merged.generate(ASK, GREEDY)
        await merged.close()
        assert generation.completions[0].text == reference.completions[0].text
        assert generation.completions[0].logprobs == pytest.approx(reference.completions[0].logprobs, abs=1e-2)
        assert generation.version == name
    assert len({generation.completions[0].text for generation in found.values()}) == 3


async def test_swapping_one_site_changes_nothing_for_the_other_nor_for_what_is_in_flight(
    sites: dict[str, SiteEngine], dirs: dict[str, Path]
) -> None:
    before = {name: await site.generate(ASK, GREEDY) for name, site in sites.items()}
    running = [asyncio.create_task(site.generate(ASK, ENDLESS)) for site in sites.values()]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in running)
    report = await sites["north"].load(dirs["newer"], "newer")
    after = {name: await site.generate(ASK, GREEDY) for name, site in sites.items()}
    assert [generation.version for generation in await asyncio.gather(*running)] == ["north", "south"]
    assert after["south"].completions == before["south"].completions and after["south"].version == "south"
    assert after["north"].completions != before["north"].completions and after["north"].version == "newer"
    assert 0 < report.gap_s <= report.moments["live_s"]
    await sites["north"].load(dirs["base"], "base")
    assert (await sites["north"].generate(ASK, GREEDY)).version == "base"


@pytest.mark.parametrize(
    ("how", "words"), [("torn", "adapter"), ("shape", "shape"), ("nan", "finite"), ("base", "cannot leave")]
)
async def test_an_adapter_that_does_not_fit_leaves_the_old_one(
    sites: dict[str, SiteEngine], dirs: dict[str, Path], tmp_path: Path, how: str, words: str
) -> None:
    before = await sites["north"].generate(ASK, GREEDY)
    with pytest.raises(EngineError, match=words):
        await sites["north"].load(damaged(dirs["newer"], tmp_path / "bad", how), "bad")
    after = await sites["north"].generate(ASK, GREEDY)
    assert (after.version, after.completions) == ("north", before.completions)


async def test_an_adapter_larger_than_its_room_is_refused_by_vllm_and_the_engine_goes_on(
    sites: dict[str, SiteEngine], dirs: dict[str, Path]
) -> None:
    with pytest.raises(EngineError, match="vLLM cannot load it"):
        await sites["south"].load(dirs["large"], "large")
    assert (await sites["south"].generate(ASK, GREEDY)).version == "south"


async def test_the_engine_ends_with_its_last_site(dirs: dict[str, Path]) -> None:
    host = SideBySide(dirs["base"], "base", 2, settings=replace(SETTINGS, max_num_seqs=4))
    await host.setup()
    first, last = host.site(), host.site()
    await first.close()
    assert (await last.generate(ASK, GREEDY)).version == "base" and last.gauges()["usable"] == 1.0
    await last.close()
    with pytest.raises(EngineError, match="closed"):
        await last.generate(ASK, GREEDY)
