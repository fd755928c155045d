"""An OpenAI-compatible chat endpoint behind the ``Engine`` protocol: the cloud leg.

The endpoint's tool calls become text in the syntax of ``policies.toolcalls``, so a cloud answer compares with an edge
draft.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.endpoint import Endpoint, Reply
from actors.engine import Completion, FinishReason, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import RemoteSettings
from policies.errors import EngineError
from policies.toolcalls import CLOSE, OPEN, compact, render
from policies.types import ToolCall

PATH = "/chat/completions"


class RemoteEngine:
    """A model behind ``POST {base_url}/chat/completions``.

    Args:
        base_url: up to and with the version part (``https://api.openai.com/v1``).
        model: name the endpoint knows the model by.
        settings: key, time limits, extra body fields.
    """

    def __init__(self, base_url: str, model: str, settings: RemoteSettings | None = None) -> None:
        self._model, self._settings = model, settings or RemoteSettings()
        self._http = Endpoint(base_url, self._settings)
        self.endpoint = self._http.url(PATH)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; token counts are 0 where the endpoint reports no usage."""
        if prompt.prefill:
            raise EngineError(f"{self.endpoint}: an answer cannot be begun for a remote model (prefill)")
        started = time.perf_counter()
        reply = await self._http.post(PATH, self._body(prompt, sampling))
        return self._generation(reply, time.perf_counter() - started)

    async def load(self, path: Path, version: str) -> LoadReport:  # noqa: ARG002
        """Raises EngineError: a remote model's weights are not ours to change."""
        raise EngineError(f"{self.endpoint}: new weights cannot be loaded into a remote model")

    async def close(self) -> None:
        """See ``Engine``."""
        await self._http.close()

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(prompt.messages),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "n": sampling.n,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "tools": list(prompt.tools) or None,
            "tool_choice": prompt.tool_choice if prompt.tools else None,
            "logprobs": self._settings.logprobs or None,
            "response_format": _response_format(prompt.schema),
        } | dict(self._settings.body)
        return {name: value for name, value in body.items() if value is not None}

    def _generation(self, reply: Reply, seconds: float) -> Generation:
        try:
            data = json.loads(reply.body)
            usage = data.get("usage") or {}
            choices = sorted(data["choices"], key=lambda choice: choice.get("index") or 0)
            each = int(usage.get("completion_tokens") or 0) // max(1, len(choices))
            completions = tuple(_completion(choice, each) for choice in choices)
            version = str(data.get("model") or self._model)
            prompt_tokens, cached = int(usage.get("prompt_tokens") or 0), _cached_tokens(usage)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as why:
            raise EngineError(f"{self.endpoint}: its answer is not a chat completion: {why!r}") from why
        return Generation(completions, prompt_tokens, version, seconds, reply.up_bytes, reply.down_bytes, cached)


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema)}}


def _completion(choice: Mapping[str, Any], tokens: int) -> Completion:
    message = choice["message"]
    text = (message.get("content") or "") + "".join(_call(call) for call in message.get("tool_calls") or ())
    entries = (choice.get("logprobs") or {}).get("content") or ()
    logprobs = tuple(float(entry["logprob"]) for entry in entries)
    finish: FinishReason = "length" if choice.get("finish_reason") == "length" else "stop"
    return Completion(text, logprobs, finish, len(logprobs) or tokens)


def _call(call: Mapping[str, Any]) -> str:
    """An OpenAI tool call as text; bad arguments stay in sight as a call that does not parse."""
    name, arguments = call["function"]["name"], call["function"].get("arguments") or "{}"
    try:
        value = json.loads(arguments, parse_constant=_no_constant)
        if isinstance(value, dict):
            return render([ToolCall(name, value)])
    except (ValueError, TypeError, RecursionError):
        pass  # shown as it came, below
    return OPEN + compact({"name": name, "arguments": str(arguments)}) + CLOSE


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _cached_tokens(usage: Mapping[str, Any]) -> int:
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
