"""The ``openai`` client passes against a site what it passes against vLLM's own server, with the same model.

One list of cases (``openai_cases``, ``openai_more_cases``), played at both: a whole edge-only site with vLLM in its
process, and vLLM's OpenAI server. What either is known to fail is named here, and named no longer than it is true.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai_cases import CASES
from openai_more_cases import ASYNC_CASES, MORE_CASES

from actors.swap import Weights
from orchestrator.config import default_config, resolve_model
from orchestrator.site import EdgeSite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # torch's own deprecations, when vLLM is first imported
]

EDGE, MODEL = "bundled:edge", "netgpt"
START_S = 180.0  # vLLM's server takes 30 s on an idle machine
SERVER = [
    "--served-model-name", MODEL, "--host", "127.0.0.1", "--enforce-eager", "--max-num-seqs", "16",
    "--kv-cache-memory-bytes", str(64 << 20), "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
]  # fmt: skip
VARIABLES = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
}  # fmt: skip
ALL: tuple[Any, ...] = (*CASES, *MORE_CASES, *ASYNC_CASES)
AT_VLLM = {
    "a_model_is_told_of": "it has no GET /v1/models/{model}",
    "what_is_no_message_or_tool_is_a_bad_request": "it takes any role",
}
HERE = {
    "biases_are_taken": "logit_bias names tokens, which edge and cloud number differently: refused by name",
}


def cases(failing: Mapping[str, str]) -> list[Any]:
    """All of them, those of ``failing`` expected to."""
    marks = {name: pytest.mark.xfail(strict=True, reason=why) for name, why in failing.items()}
    given = [pytest.param(one, id=one.__name__, marks=marks.pop(one.__name__, ())) for one in ALL]
    assert not marks, "a case that is expected to fail is not in the list"
    return given


@pytest_asyncio.fixture(name="site", scope="module", loop_scope="module")
async def site_fixture(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of an edge-only site."""
    config = default_config(
        var=str(tmp_path_factory.mktemp("site")),
        site={"port": 0, "served_model": MODEL, "engine": {"kind": "vllm", "model": EDGE}},
    )
    weights = Weights("edge-0001-aaaaaaaa", Path(resolve_model(EDGE)))
    site = EdgeSite(config, weights, cloud_url=None, cloud_model="cloud", router="127.0.0.1:1")
    await site.start()
    yield site.info()["url"]
    await site.stop()


@pytest.fixture(name="vllm", scope="module")
def vllm_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's own server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command = [*module, "--model", resolve_model(EDGE), "--port", str(port), *SERVER]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env={**os.environ, **VARIABLES}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the engine is a process of its own
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once ``url`` answers 200."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"vLLM did not start:\n{log.read_text()[-2000:]}")


async def play(case: Any, url: str) -> None:
    """Run one case, in a thread where it is a synchronous one."""
    settings: dict[str, Any] = {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 60.0}
    if inspect.iscoroutinefunction(case):
        async with AsyncOpenAI(**settings) as client:
            await case(client, MODEL)
    else:
        with OpenAI(**settings) as client:
            await asyncio.to_thread(case, client, MODEL)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", cases(HERE))
async def test_the_client_sees_it_here(site: str, case: Any) -> None:
    await play(case, site)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", cases(AT_VLLM))
async def test_the_client_sees_it_at_vllm(vllm: str, case: Any) -> None:
    await play(case, vllm)
