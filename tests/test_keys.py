"""API keys as an attacker and a customer would try them: made, listed, revoked, limited, on a real endpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from edge_fakes import UNSURE, FakeEngine, NodeKit
from openai import AsyncOpenAI
from test_http import body, error_of, listening
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.endpoint.app import Surface
from orchestrator.endpoint.gatekeeper import Gatekeeper
from orchestrator.endpoint.keys import KeyRing, create, read, revoke
from policies.errors import BadConfig


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def guarded(file: Path, clock: Clock, kit: NodeKit | None = None) -> AsyncIterator[httpx.AsyncClient]:
    door = Gatekeeper(KeyRing(file, clock), "local", clock)
    surface = Surface((kit or NodeKit()).node, door=door)
    async with listening(surface) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def post(client: httpx.AsyncClient, key: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return await client.post("/v1/chat/completions", json=body(**fields), headers=headers)


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "keys.json"
    key, record = create(file, "phone app", sites=("local",), requests_per_minute=3)
    assert key.split("-")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read(file) == [record]
    assert key not in repr(record)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -1}, "tokens_per_minute"),
        ({"usd_per_day": -0.5}, "usd_per_day"),
        ({"priority": "royal"}, "priority"),
        ({"shoe": 1}, "shoe"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named_and_nothing_is_written(
    tmp_path: Path, limits: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadConfig, match=field):
        create(tmp_path / "keys.json", "app", **limits)
    assert not (tmp_path / "keys.json").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"id": "x"}]', "null"])
def test_a_file_that_is_none_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(BadConfig, match=r"keys\.json"):
        create(file, "app")
    with pytest.raises(BadConfig):
        KeyRing(file)
    assert file.read_text() == content


def make_some(file: str, name: str) -> None:
    for number in range(5):
        create(Path(file), f"{name}{number}")


def test_processes_that_make_keys_at_the_same_time_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=make_some, args=(str(file), name)) for name in "ab"]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert len({record.name for record in read(file)}) == 10


async def test_without_a_key_nothing_but_health_is_to_be_had(tmp_path: Path) -> None:
    key, _ = create(tmp_path / "keys.json", "app")
    wrong = [key[:-1], key + "x", key.replace("ngk", "sk"), "ngk--", "ngk-00000000-x", "\u00e9", "x"]
    async with guarded(tmp_path / "keys.json", Clock()) as client:
        for bad in wrong:
            reply = await post(client, bad) if bad.isascii() else await client.post(
                "/v1/chat/completions", json=body(), headers={"authorization": b"Bearer \xe9"}
            )  # fmt: skip
            assert (reply.status_code, error_of(reply)["type"]) == (401, "authentication_error")
        assert (await client.post("/v1/chat/completions", content=b"{")).status_code == 401  # before it is read
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        assert (await post(client, key)).status_code == 200


async def test_the_openai_client_says_that_its_key_is_wrong(tmp_path: Path) -> None:
    async with guarded(tmp_path / "keys.json", Clock()) as client:
        theirs = AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="sk-1", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="unknown or was revoked"):
            await theirs.models.list()
        await theirs.close()


async def test_a_revoked_key_ends_within_a_second_and_a_new_one_begins(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys.json", Clock()
    key, record = create(file, "app")
    async with guarded(file, clock) as client:
        assert (await post(client, key)).status_code == 200
        revoke(file, record.id)
        clock.now += 1.1
        assert (await post(client, key)).status_code == 401
        fresh, _ = create(file, "app")
        clock.now += 1.1
        assert (await post(client, fresh)).status_code == 200
        file.write_text("broken")
        clock.now += 1.1
        assert (await post(client, fresh)).status_code == 200  # what could be read last stays in force


async def test_a_key_of_another_site_is_refused(tmp_path: Path) -> None:
    key, _ = create(tmp_path / "keys.json", "app", sites=("north",))
    async with guarded(tmp_path / "keys.json", Clock()) as client:
        reply = await post(client, key)
    assert (reply.status_code, error_of(reply)["code"]) == (403, "wrong_site")


async def test_requests_beyond_the_rate_are_429_until_it_has_refilled(tmp_path: Path) -> None:
    clock = Clock()
    key, _ = create(tmp_path / "keys.json", "app", requests_per_minute=2)
    async with guarded(tmp_path / "keys.json", clock) as client:
        assert [(await post(client, key)).status_code for _ in range(3)] == [200, 200, 429]
        reply = await post(client, key)
        assert (error_of(reply)["code"], reply.headers["retry-after"]) == ("rate_limit_exceeded", "30")
        clock.now += 30
        assert (await post(client, key)).status_code == 200
        assert error_of(await post(client, key, n=3))["param"] == "n"  # never possible: no use in waiting


async def test_tokens_are_taken_as_they_were_used_not_as_they_might_have_been(tmp_path: Path) -> None:
    clock = Clock()
    key, _ = create(tmp_path / "keys.json", "app", tokens_per_minute=1000)
    async with guarded(tmp_path / "keys.json", clock) as client:
        # An answer of the fakes takes 108 tokens; max_tokens is 256 and the prompt some 80 more.
        statuses = [(await post(client, key)).status_code for _ in range(9)]
        assert statuses.count(200) == 7 and statuses[-1] == 429
        clock.now += 60
        assert (await post(client, key)).status_code == 200
        assert error_of(await post(client, key, max_tokens=5000))["param"] == "max_tokens"


async def test_a_request_that_fails_costs_the_key_no_tokens(tmp_path: Path) -> None:
    key, _ = create(tmp_path / "keys.json", "app", tokens_per_minute=400)
    kit = NodeKit(FakeEngine("<tool_call>"), edge_only=True)
    async with guarded(tmp_path / "keys.json", Clock(), kit) as client:
        assert [(await post(client, key)).status_code for _ in range(4)] == [503] * 4
        kit.edge.reply = "Done."
        assert (await post(client, key)).status_code == 200


async def test_a_key_without_dollars_left_is_answered_by_the_edge(tmp_path: Path) -> None:
    clock = Clock()
    key, _ = create(tmp_path / "keys.json", "app", usd_per_day=0.0009)
    kit = NodeKit(FakeEngine(logprobs=UNSURE))
    async with guarded(tmp_path / "keys.json", clock, kit) as client:
        routes = [(await post(client, key)).json()["netgpt"] for _ in range(12)]
        assert routes[0]["route"] == "cloud"
        assert (routes[-1]["route"], routes[-1]["reason"], routes[-1]["degraded"]) == ("edge", "too_dear", True)
        spent = sum(told["cost_usd"] for told in routes)
        assert 0.0002 < spent <= 0.0009
        clock.now += 86_400
        assert (await post(client, key)).json()["netgpt"]["route"] == "cloud"


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    run = CliRunner()
    config = tmp_path / "c.yaml"
    config.write_text(f"var: {tmp_path}\n")
    made = run.invoke(app, ["keys", "create", "phone app", "--site", "local", "--usd-per-day", "2", "-c", str(config)])
    key = made.stdout.strip()
    assert made.exit_code == 0 and key.startswith("ngk-")
    listed = run.invoke(app, ["keys", "list", "-c", str(config)]).stdout
    assert "phone app: local; interactive; 2 USD/day" in listed and key not in listed
    key_id = json.loads((tmp_path / "keys.json").read_text())[0]["id"]
    assert "phone app has no access any more" in run.invoke(app, ["keys", "revoke", key_id, "-c", str(config)]).stdout
    assert "no keys in" in run.invoke(app, ["keys", "list", "-c", str(config)]).stdout
    again = run.invoke(app, ["keys", "revoke", key_id, "-c", str(config)])
    assert isinstance(again.exception, BadConfig)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match="cannot be written"):
        create(tmp_path / "file" / "keys.json", "app")
    assert os.listdir(tmp_path) == ["file"]
