"""The SDK: typed answers from a real site, and an import that needs nothing heavy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from edge_fakes import ALARM, MOVE, UNSURE, FakeEngine, NodeKit
from test_http import serving

from orchestrator.client import AsyncNetGPT, Call, NetGPT

HEAVY = ["ray", "torch", "vllm", "transformers", "numpy", "scipy", "pyarrow", "grpc", "fastapi", "uvicorn"]
HEAVY += ["jsonschema", "actors", "cluster", "policies"]


async def test_an_answer_carries_its_route_typed() -> None:
    async with serving(NodeKit()) as site, AsyncNetGPT(f"{site.url}/v1") as client:
        answer = await client.ask("move the slice north", [MOVE, ALARM], temperature=0)
    assert answer.tool_calls == [Call("move_slice", {"to": "north"})]
    assert answer.content is None
    assert (answer.route, answer.version, answer.degraded, answer.cost_usd) == (
        "edge",
        "edge-0001-aaaaaaaa",
        False,
        0.0,
    )
    assert 0 <= answer.threshold <= answer.score <= 1
    assert answer.info.reason == "score_passed"
    assert answer.info.latency_ms.total > 0
    assert answer.info.link.rtt_ms == 40.0


async def test_the_sync_client_says_when_the_cloud_answered_and_what_it_cost() -> None:
    def ask(url: str) -> tuple[str, str, float]:
        with NetGPT(url) as client:
            answer = client.ask([{"role": "user", "content": "move it"}], [MOVE])
            return answer.route, answer.version, answer.cost_usd

    async with serving(NodeKit(FakeEngine(logprobs=UNSURE))) as site:
        route, version, cost_usd = await asyncio.to_thread(ask, f"{site.url}/v1")
    assert (route, version) == ("cloud", "cloud-1")
    assert cost_usd > 0


async def test_a_request_says_how_it_wants_to_be_answered() -> None:
    async with serving(NodeKit()) as site, AsyncNetGPT(f"{site.url}/v1") as client:
        asked = await client.ask("move it", [MOVE], {"route": "cloud"}, extra_body={"user": "u"})
        stayed = await client.ask("move it", [MOVE], {"private": True, "deadline_ms": 5000})
    assert (asked.route, asked.info.reason) == ("cloud", "cloud_asked")
    assert (stayed.route, stayed.info.reason) == ("edge", "edge_asked")


async def test_errors_are_those_of_the_openai_client() -> None:
    async with serving(NodeKit()) as site, AsyncNetGPT(f"{site.url}/v1", model="other") as client:
        with pytest.raises(openai.NotFoundError, match="other"):
            await client.ask("hello")


async def test_a_stream_is_refused_here_and_had_from_the_plain_client() -> None:
    async with serving(NodeKit(FakeEngine("Hello."))) as site, AsyncNetGPT(f"{site.url}/v1") as client:
        with pytest.raises(ValueError, match=r"\.openai"):
            await client.ask("hello", stream=True)
        stream = await client.openai.chat.completions.create(
            model="netgpt", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello."


def test_the_sdk_imports_with_nothing_heavy_installed() -> None:
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from orchestrator.client import NetGPT, AsyncNetGPT
with NetGPT("http://127.0.0.1:1/v1") as client:
    assert client.model == "netgpt"
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_the_key_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NetGPT().openai.api_key == "none"
    monkeypatch.setenv("NETGPT_API_KEY", "ngk-1-2")
    assert AsyncNetGPT().openai.api_key == "ngk-1-2"
    assert NetGPT(api_key="ngk-3-4").openai.api_key == "ngk-3-4"
