"""A real vLLM server that two sites share: each request is answered by its own site's adapter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import torch
from engine_kit import ASK, ENDLESS, GREEDY, SETTINGS
from test_lora import damaged
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM

from actors.adapter_server import ALLOW, AdapterServer
from actors.build import build_engine, shared_engine
from actors.engine import Prompt
from actors.engine_settings import RemoteSettings
from actors.lora import Adapter
from cluster.session import free_port
from policies.errors import EngineError, NetGPTError

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

KEY = RemoteSettings(api_key="sk-shared")
START_S = 180.0
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


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
    base = tiny_model_dir(root / "base", seed=1, endless=True)
    made = {name: adapter_dir(base, root / name, seed) for seed, name in enumerate(("north", "south", "newer"))}
    return {"base": base, **made, "large": adapter_dir(base, root / "large", 7, rank=16)}


@pytest.fixture(name="url", scope="module")
def url_fixture(dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, as its owner starts it."""
    port, said = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(dirs["base"])]
    command += [
        "--port",
        str(port),
        "--enable-lora",
        "--max-loras",
        "4",
        "--max-lora-rank",
        "8",
        "--enforce-eager",
        "--dtype",
        "float32",
    ]
    command += ["--api-key", KEY.api_key or "", "--kv-cache-memory-bytes", str(32 * 2**20), "--max-num-seqs", "8"]
    environment = {
        **os.environ,
        ALLOW: "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCH_COMPILE_DISABLE": "1",
    }
    with said.open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, said)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], said: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.poll() is None, said.read_text()[-3000:]
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(said.read_text()[-3000:])


@pytest_asyncio.fixture(name="sites", loop_scope="module")
async def sites_fixture(url: str, dirs: dict[str, Path]) -> AsyncIterator[dict[str, AdapterServer]]:
    sites = {name: AdapterServer(url, dirs["base"], name, KEY) for name in ("north", "south")}
    for name, site in sites.items():
        await site.setup(dirs[name], name)
    yield sites
    for site in sites.values():
        await site.close()


async def test_each_site_answers_as_its_own_merged_model_would(
    url: str, sites: dict[str, AdapterServer], dirs: dict[str, Path]
) -> None:
    base = await shared_engine(url, "third", dirs["base"], "base", KEY)
    found = {"base": await base.generate(ASK, GREEDY)}
    await base.close()
    together = await asyncio.gather(*(site.generate(ASK, GREEDY) for site in sites.values()))  # in one batch
    found |= dict(zip(sites, together, strict=True))
    for name, generation in found.items():
        merged = await build_engine("transformers", dirs[name], name, SETTINGS)
        reference = await merged.generate(ASK, GREEDY)
        await merged.close()
        answer, wanted = generation.completions[0], reference.completions[0]
        assert (answer.text, answer.finish_reason, answer.tokens) == (wanted.text, wanted.finish_reason, wanted.tokens)
        assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-2)
        assert (generation.version, generation.prompt_tokens) == (name, reference.prompt_tokens)
    assert len({generation.completions[0].text for generation in found.values()}) == 3


async def test_tokens_are_named_with_their_alternatives(sites: dict[str, AdapterServer]) -> None:
    answer = (await sites["north"].generate(ASK, replace(GREEDY, alternatives=2))).completions[0]
    assert tuple(token.logprob for token in answer.named) == answer.logprobs
    assert all(token.top[0][1] == pytest.approx(token.logprob) for token in answer.named)  # greedy


async def test_a_grammar_holds_for_what_follows_the_prefill(sites: dict[str, AdapterServer]) -> None:
    answer = (await sites["north"].generate(Prompt(ASK.messages, schema=SCHEMA, prefill="<a>"), GREEDY)).completions[0]
    assert answer.text.startswith("<a>") and isinstance(json.loads(answer.text.removeprefix("<a>"))["n"], int)
    assert max(answer.logprobs) == 0.0  # a forced token


async def test_swapping_one_site_changes_nothing_for_the_other_nor_for_what_is_in_flight(
    sites: dict[str, AdapterServer], dirs: dict[str, Path]
) -> None:
    before = {name: await site.generate(ASK, GREEDY) for name, site in sites.items()}
    running = [asyncio.create_task(site.generate(ASK, ENDLESS)) for site in sites.values()]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in running)
    for version in ("newer", "again", "last"):  # more than the server keeps of one site
        await sites["north"].load(dirs["newer"], version)
    after = {name: await site.generate(ASK, GREEDY) for name, site in sites.items()}
    assert [generation.version for generation in await asyncio.gather(*running)] == ["north", "south"]
    assert after["south"].completions == before["south"].completions and after["south"].version == "south"
    assert after["north"].completions != before["north"].completions and after["north"].version == "last"
    await sites["north"].load(dirs["base"], "base")
    assert (await sites["north"].generate(ASK, GREEDY)).version == "base"


async def test_a_site_that_ends_takes_its_adapters_along(url: str, dirs: dict[str, Path]) -> None:
    site = await shared_engine(url, "guest", dirs["north"], "north", KEY)
    assert "guest/north" in models(url)
    await site.close()
    assert "guest/north" not in models(url)


@pytest.mark.parametrize(
    ("how", "words"), [("torn", "adapter"), ("shape", "shape"), ("nan", "finite"), ("base", "cannot leave")]
)
async def test_an_adapter_that_does_not_fit_leaves_the_old_one(
    sites: dict[str, AdapterServer], dirs: dict[str, Path], tmp_path: Path, how: str, words: str
) -> None:
    before = await sites["north"].generate(ASK, GREEDY)
    with pytest.raises(EngineError, match=words):
        await sites["north"].load(damaged(dirs["newer"], tmp_path / "bad", how), "bad")
    after = await sites["north"].generate(ASK, GREEDY)
    assert (after.version, after.completions) == ("north", before.completions)


async def test_an_adapter_larger_than_its_room_is_refused_by_the_server_which_goes_on(
    sites: dict[str, AdapterServer], dirs: dict[str, Path]
) -> None:
    with pytest.raises(EngineError, match=r"large: .*rank"):
        await sites["south"].load(dirs["large"], "large")
    assert (await sites["south"].generate(ASK, GREEDY)).version == "south"


@pytest.mark.parametrize(
    ("what", "words"), [("model", "not the weights of"), ("key", "401"), ("nobody", "ClientConnectorError")]
)
async def test_a_server_that_cannot_be_shared_is_refused_at_once(
    url: str, dirs: dict[str, Path], tmp_path: Path, what: str, words: str
) -> None:
    base = tiny_model_dir(tmp_path / "other", seed=5) if what == "model" else dirs["base"]
    where = f"http://127.0.0.1:{free_port()}/v1" if what == "nobody" else url
    with pytest.raises(NetGPTError, match=words):
        await shared_engine(where, "site", base, "base", RemoteSettings() if what == "key" else KEY)


def models(url: str) -> list[str]:
    answer = httpx.get(f"{url}/models", headers={"authorization": f"Bearer {KEY.api_key}"}, trust_env=False)
    return [card["id"] for card in answer.json()["data"]]
