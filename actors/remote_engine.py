"""An OpenAI-compatible endpoint behind the ``Engine`` protocol: the cloud leg.

One kept-alive httpx client. The endpoint's tool calls become text in the syntax of ``policies.toolcalls``, so a
cloud answer compares with an edge draft. Bytes counted: HTTP bodies as sent and received, plus start lines and
headers as they stand in HTTP/1.1; TCP and TLS framing are not. No retries here (see ``resilience``).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from actors.engine import Completion, FinishReason, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import RemoteSettings
from policies.errors import EngineError, Refused, Unreachable
from policies.toolcalls import CLOSE, OPEN, compact, render
from policies.types import ToolCall

# Calls on the wire at once; beyond it a call waits for a free connection as long as for a new one, then fails.
MAX_CONNECTIONS = 64
MAX_ANSWER_BYTES = 8 * 2**20  # an answer larger than this is no chat completion; reading it would fill memory
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came back, and what it cost on the link."""

    status: int
    body: bytes
    up_bytes: int
    down_bytes: int


class RemoteEngine:
    """A model behind ``POST {base_url}/chat/completions``.

    Args:
        base_url: up to and with the version part (``https://api.openai.com/v1``).
        model: name the endpoint knows the model by.
        settings: key, time limits, extra body fields.
    """

    def __init__(self, base_url: str, model: str, settings: RemoteSettings | None = None) -> None:
        self._model, self._settings = model, settings or RemoteSettings()
        url = _url(base_url)
        self._url = url.copy_with(username=None, password=None)  # httpx logs the URLs it calls
        self.endpoint = str(self._url)
        self._client = _client(url, self._settings)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``; token counts are 0 where the endpoint reports no usage."""
        if prompt.prefill:
            raise EngineError(f"{self.endpoint}: an answer cannot be begun for a remote model (prefill)")
        started = time.perf_counter()
        reply = await self._post(compact(self._body(prompt, sampling)).encode())
        if not httpx.codes.is_success(reply.status):
            raise Refused(f"{self.endpoint} answered {reply.status}: {self._complaint(reply.body)}", reply.status)
        return self._generation(reply, time.perf_counter() - started)

    async def load(self, path: Path, version: str) -> LoadReport:  # noqa: ARG002
        """Raises EngineError: a remote model's weights are not ours to change."""
        raise EngineError(f"{self.endpoint}: new weights cannot be loaded into a remote model")

    async def close(self) -> None:
        """See ``Engine``."""
        await self._client.aclose()

    async def _post(self, body: bytes) -> _Reply:
        try:
            async with (
                asyncio.timeout(self._settings.deadline_s),
                self._client.stream("POST", self._url, content=body) as got,
            ):
                content = await self._read(got)
        except TimeoutError as why:
            raise Unreachable(f"{self.endpoint}: no answer within {self._settings.deadline_s:g} s") from why
        except httpx.TransportError as why:
            raise Unreachable(f"{self.endpoint}: {type(why).__name__} {self._clean(str(why))}".rstrip()) from why
        except httpx.HTTPError as why:
            raise EngineError(f"{self.endpoint}: {type(why).__name__} {self._clean(str(why))}".rstrip()) from why
        up, down = _header_bytes(got.request.headers), _header_bytes(got.headers)
        return _Reply(got.status_code, content, len(body) + up, got.num_bytes_downloaded + down)

    async def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise EngineError(f"{self.endpoint}: its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return bytes(content)

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

    def _generation(self, reply: _Reply, seconds: float) -> Generation:
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

    def _complaint(self, body: bytes) -> str:
        """The upstream's own words, at most 300 characters of them."""
        text = body.decode(errors="replace")
        try:
            error = json.loads(text)
            error = error.get("error", error.get("message", error.get("detail", error)))
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # not OpenAI's error shape: the raw text will do
        return self._clean(" ".join(text.split())[:300]) or "(no message)"

    def _clean(self, text: str) -> str:
        """``text`` without the API key, which some servers repeat in their errors."""
        key = self._settings.api_key
        return text.replace(key, "***") if key else text


def _url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.rstrip("/") + "/chat/completions")
    except (httpx.InvalidURL, ValueError) as why:
        raise EngineError(f"endpoint {base_url!r} is not a URL: {why}") from why
    if url.scheme not in ("http", "https") or not url.host:
        raise EngineError(f"endpoint {base_url!r} is not an http(s) URL, such as http://127.0.0.1:8000/v1")
    return url


def _client(url: httpx.URL, settings: RemoteSettings) -> httpx.AsyncClient:
    headers = {"content-type": "application/json"}
    auth = httpx.BasicAuth(url.username, url.password) if url.username and not settings.api_key else None
    if settings.api_key:
        headers["authorization"] = f"Bearer {settings.api_key}"
    return httpx.AsyncClient(
        headers=headers,
        auth=auth,
        timeout=httpx.Timeout(settings.idle_s, connect=settings.connect_s, pool=settings.connect_s),
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=60.0),
        trust_env=url.host not in _LOOPBACK,  # an emulated link listens on loopback: no proxy may take its place
    )


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


def _header_bytes(headers: httpx.Headers) -> int:
    start_line, blank_line, separators = 40, 2, 4
    return start_line + blank_line + sum(len(key) + len(value) + separators for key, value in headers.raw)
