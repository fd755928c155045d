"""An OpenAI-compatible chat endpoint behind the ``Engine`` protocol: the cloud leg.

The endpoint's tool calls become text in the syntax of ``policies.toolcalls``, so a cloud answer compares with an edge
draft.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from actors.endpoint import MALFORMED, Endpoint, Reply, cached_tokens, finish_reason, sampling_fields
from actors.engine import Completion, Generation, Hear, LoadReport, Prompt, Sampling, Token
from actors.engine_settings import RemoteSettings
from actors.remote_stream import Assembly
from policies.errors import EngineError, Refused, Unreachable
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
        started, body = time.perf_counter(), self._body(prompt, sampling)
        if sampling.hear is not None:
            reply = await self._listened(body, sampling.hear)
        else:
            reply = await self._http.post(PATH, body)
        return self._generation(reply, sampling, time.perf_counter() - started)

    async def load(self, path: Path, version: str) -> LoadReport:  # noqa: ARG002
        """Raises EngineError: a remote model's weights are not ours to change."""
        raise EngineError(f"{self.endpoint}: new weights cannot be loaded into a remote model")

    async def close(self) -> None:
        """See ``Engine``."""
        await self._http.close()

    async def _listened(self, body: dict[str, Any], hear: Hear) -> Reply:
        """The same answer, heard as it comes; once something was heard, there is no asking again."""
        assembly = Assembly(hear, _call)
        try:
            asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
            reply = await self._http.stream(PATH, asked, assembly.take)
            return reply if reply.body else replace(reply, body=orjson.dumps(await assembly.end()))
        except (Unreachable, Refused) as why:
            if assembly.heard:
                raise EngineError(f"{why}, after a part of the answer") from why
            raise

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": list(prompt.messages),
            **sampling_fields(sampling),
            "tools": list(prompt.tools) or None,
            "tool_choice": prompt.tool_choice if prompt.tools else None,
            "logprobs": self._settings.logprobs or sampling.alternatives is not None or None,
            "top_logprobs": sampling.alternatives or None,
            "response_format": _response_format(prompt.schema),
            **self._settings.body,
        }

    def _generation(self, reply: Reply, sampling: Sampling, seconds: float) -> Generation:
        try:
            data = orjson.loads(reply.body)
            usage = data.get("usage") or {}
            choices = sorted(data["choices"], key=lambda choice: choice.get("index") or 0)
            each = int(usage.get("completion_tokens") or 0) // max(1, len(choices))
            named = sampling.alternatives is not None
            completions = tuple(_completion(choice, each, named) for choice in choices)
            version = str(data.get("model") or self._model)
            prompt_tokens, cached = int(usage.get("prompt_tokens") or 0), cached_tokens(usage)
        except MALFORMED as why:
            raise EngineError(f"{self.endpoint}: its answer is not a chat completion: {why!r}") from why
        return Generation(completions, prompt_tokens, version, seconds, reply.up_bytes, reply.down_bytes, cached)


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema)}}


def _completion(choice: Mapping[str, Any], tokens: int, named: bool) -> Completion:
    message = choice["message"]
    text = (message.get("content") or "") + "".join(_call(call) for call in message.get("tool_calls") or ())
    entries = (choice.get("logprobs") or {}).get("content") or ()
    logprobs = tuple(float(entry["logprob"]) for entry in entries)
    why, names = finish_reason(choice.get("finish_reason")), tuple(map(_token, entries)) if named else ()
    return Completion(text, logprobs, why, len(logprobs) or tokens, names)


def _token(entry: Mapping[str, Any]) -> Token:
    others = tuple((str(other["token"]), float(other["logprob"])) for other in entry.get("top_logprobs") or ())
    return Token(str(entry["token"]), float(entry["logprob"]), others)


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
