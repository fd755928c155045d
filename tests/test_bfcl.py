"""A thousand strangers' tool sets (Berkeley Function Calling Leaderboard): all are taken, and under their grammars even
random weights answer with valid calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_kit import SETTINGS
from tiny_model import tiny_model_dir

from actors.build import build_engine
from actors.chat import ChatRequest, closed
from actors.engine import Sampling
from actors.grammar import json_grammar
from orchestrator.endpoint.chat_schema import read_body, to_request
from policies.toolcalls import parse

SETS = Path(__file__).parents[2] / "shared" / "data" / "bfcl"
TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array"}

pytestmark = pytest.mark.skipif(not SETS.is_dir(), reason=f"{SETS} is not there")


def translated(schema: Any) -> Any:
    """The leaderboard's spelling of types as JSON Schema's; ``any`` is no type at all."""
    if isinstance(schema, list):
        return [translated(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: translated(value) for key, value in schema.items() if (key, value) != ("type", "any")}
    return {**kept, "type": TYPES.get(kept["type"], kept["type"])} if isinstance(kept.get("type"), str) else kept


def bodies() -> Iterator[dict[str, Any]]:
    for file in sorted(SETS.glob("*.json")):
        if file.stem.endswith("_answers"):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            asked = json.loads(line)
            functions = [{**f, "parameters": translated(f["parameters"])} for f in asked["function"]]
            tools = [{"type": "function", "function": function} for function in functions]
            yield {"model": "m", "messages": asked["question"][0], "tools": tools, "tool_choice": "required"}


def requests() -> list[ChatRequest]:
    return [to_request(read_body(body), body, str(number)) for number, body in enumerate(bodies())]


def test_all_are_taken_and_have_a_grammar() -> None:
    taken = requests()
    assert len(taken) == 1000
    for request in taken:
        strict = request.strict_prompt("")
        assert strict is not None and strict.schema is not None
        assert json_grammar(strict.schema)


@pytest.mark.slow
async def test_random_weights_make_valid_calls_of_them(tmp_path: Path) -> None:
    model = tiny_model_dir(tmp_path / "model", context=4096)
    engine, room = await build_engine("vllm", model, "first", SETTINGS), asyncio.Semaphore(8)

    async def ask(request: ChatRequest) -> str | None:
        strict = request.strict_prompt("")
        assert strict is not None
        async with room:
            made = (await engine.generate(strict, Sampling(max_tokens=400, temperature=1.0, seed=1))).completions[0]
        if made.finish_reason == "length":
            return "cut"
        return request.problem(parse(closed(made.text)))

    found = await asyncio.gather(*(ask(request) for request in requests()[::20]))
    await engine.close()
    assert not [why for why in found if why not in (None, "cut")]
    assert found.count(None) > len(found) / 2
