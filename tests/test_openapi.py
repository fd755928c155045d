"""The OpenAPI document is exact: what it allows is taken, what it forbids is refused, and answers are what it says.

schemathesis reads the document and makes requests of it, good ones and bad ones, for the app itself; the engines behind
it answer at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from edge_fakes import MOVE, NORTH, FakeEngine, NodeKit
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_http import body

from orchestrator.endpoint.app import Surface
from orchestrator.endpoint.openapi import document

ID = "0123456789abcdef" * 2
RESPONSE = {"model": "netgpt", "input": "hi", "tools": [{"type": "function", **MOVE["function"]}]}  # type: ignore[dict-item]
TOLD = document("netgpt")
EXAMPLES = 60  # of each operation, besides those made of its limits; all together take 15 s of one core
# 503: neither of the fakes' answers fits the tools or the format that were asked for.
CONFIG = {"checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}}}
# What a schema cannot say, by the field that is named then.
BEYOND_A_SCHEMA = {
    r"tools\[\d+\](\.function)?\.name": "it is used twice",
    r"tools\[\d+\](\.function)?\.parameters": "a schema that cannot be used",
    r"(response_format\.json_schema|text\.format)\.schema": "a schema that cannot be used",
    r"tool_choice(\.function)?\.name": "it is not among the tools",
    r"(messages|message|input).*\.arguments": "text that is no JSON object",
}


def app(edge: FakeEngine) -> Surface:
    """A site that takes feedback."""
    return Surface(NodeKit(edge, FakeEngine("From the cloud.")).node, keep=lambda verdict: None)


schema = schemathesis.openapi.from_dict(TOLD, config=schemathesis.Config.from_dict(CONFIG))
schema.app = app(FakeEngine("Just words."))


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_the_document_says_holds(case: schemathesis.Case[Any]) -> None:
    reply = case.call()
    beyond = reply.status_code == 400 and is_beyond_a_schema(reply.json()["error"]["param"])
    case.validate_response(reply, excluded_checks=[positive_data_acceptance] if beyond else [])


def is_beyond_a_schema(field: str | None) -> bool:
    """Whether no schema could have said what is wrong with ``field``."""
    return any(re.fullmatch(pattern, field or "") for pattern in BEYOND_A_SCHEMA)


@asynccontextmanager
async def asking(edge: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(edge)), base_url="http://site") as client:
        yield client


def fits(name: str, value: Any) -> bool:
    """Whether ``value`` is what the document calls ``name``."""
    rooted = {"$ref": f"#/components/schemas/{name}", "components": TOLD["components"]}
    return bool(jsonschema.Draft202012Validator(rooted).is_valid(value))


async def test_the_document_is_served_and_tells_of_every_path() -> None:
    async with asking(FakeEngine()) as client:
        assert (await client.get("/openapi.json")).json() == TOLD
        for path, operations in TOLD["paths"].items():
            for method in ("get", "post"):
                status = (await client.request(method, path, json={} if method == "post" else None)).status_code
                assert (status == 405) == (method not in operations), path


async def test_calls_and_choices_are_answered_as_the_document_says() -> None:
    async with asking(FakeEngine(f"On it. {NORTH}")) as client:
        answers = {
            "ChatCompletion": await client.post("/v1/chat/completions", json=body(n=2, logprobs=True)),
            "Response": await client.post("/v1/responses", json=RESPONSE),
            "Feedback": await client.post("/v1/feedback", json={"id": ID, "right": True}),
            "Models": await client.get("/v1/models"),
            "Model": await client.get("/v1/models/netgpt"),
            "Error": await client.get("/v1/models/other/name"),
        }
    for name, reply in answers.items():
        assert fits(name, reply.json()), name
    assert answers["Error"].status_code == 404


@pytest.mark.parametrize(
    ("path", "asked", "event", "data"),
    [
        ("/v1/chat/completions", body(), "ChatEvent", "ChatChunk"),
        ("/v1/responses", RESPONSE, "ResponseEvent", "ResponseStep"),
    ],
)
async def test_events_are_what_the_document_says(path: str, asked: dict[str, Any], event: str, data: str) -> None:
    stream = TOLD["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    assert stream["itemSchema"]["$ref"].endswith(event)
    async with asking(FakeEngine(f"On it. {NORTH}")) as client:
        text = (await client.post(path, json={**asked, "stream": True})).text
    events = [dict(line.split(": ", 1) for line in one.splitlines()) for one in text.split("\n\n") if one]
    assert len(events) > 3
    assert all(fits(event, one) for one in events)
    assert all(fits(data, json.loads(one["data"])) for one in events if one["data"] != "[DONE]")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (body(), True),
        (body(user="u", logit_bias={}, frequency_penalty=0), True),
        (body(max_tokens=9.0), True),
        (body(max_tokens=9.5), False),
        (body(seed=-(2**63) - 1), False),
        (body(logit_bias={"5": 1}), False),
        (body(colour="red"), False),
        (body(temperature=3), False),
        (body(messages=[]), False),
        (body(messages=[{"role": "user"}]), False),
        (body(messages=[{"role": "tool", "content": "x"}]), False),
        (body(top_logprobs=3), False),
        (body(tools=[], tool_choice="required"), False),
        (body(netgpt={"route": "cloud", "private": True}), False),
    ],
)
async def test_the_documents_schema_takes_what_the_endpoint_takes(given: dict[str, Any], taken: bool) -> None:
    assert fits("ChatBody", given) == taken
    async with asking(FakeEngine()) as client:
        assert ((await client.post("/v1/chat/completions", json=given)).status_code == 200) == taken


def test_the_document_is_valid_json_schema_throughout() -> None:
    for one in TOLD["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(one)
    assert json.loads(json.dumps(TOLD)) == TOLD
