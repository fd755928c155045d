"""``netgpt ask``: one question to a site through the SDK, shown with its route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from orchestrator import run_file
from orchestrator.client import Controls, NetGPT
from orchestrator.config import Config
from policies.errors import BadConfig, NetGPTError


def ask(
    config: Config, text: str, url: str | None, tools: Path | None, controls: Controls | None = None
) -> Iterator[str]:
    """Lines with the answer and who gave it.

    Raises:
        NetGPTError: no system runs, it does not answer, or it refuses the question.
        BadConfig: the tools' file cannot be used.
    """
    endpoint = url or str(run_file.read(config.run_file)["endpoint"])
    offered = _tools(tools) if tools else []
    with NetGPT(endpoint, model=config.site.served_model) as site:
        try:
            answer = site.ask(text, offered, controls)
        except openai.APIStatusError as why:
            raise NetGPTError(f"{endpoint} answered {why.status_code}: {_message(why)}") from None
        except (openai.APIError, ValueError) as why:
            raise NetGPTError(f"{endpoint}: {why} Is a system running? (netgpt status)") from None
    if answer.content:
        yield answer.content
    for call in answer.tool_calls:
        yield f"{call.name}({json.dumps(call.arguments)})"
    yield (
        f"[{answer.route} {answer.info.reason}] score {answer.score:.3f}, threshold {answer.threshold:.3f}, "
        f"version {answer.version}, {answer.info.latency_ms.total:.0f} ms, {answer.cost_usd:.6f} USD"
    )


def _tools(path: Path) -> list[dict[str, Any]]:
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as why:
        raise BadConfig(
            f"{path}: cannot be read as JSON: {why}. Fix: give a file with a list of OpenAI tools"
        ) from None
    if not isinstance(tools, list):
        raise BadConfig(f"{path}: holds no list. Fix: give a JSON list of OpenAI tools")
    return tools


def _message(why: openai.APIStatusError) -> str:
    body = why.body if isinstance(why.body, dict) else {}
    return str(body.get("message", why.message))
