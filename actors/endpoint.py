"""An HTTP endpoint that speaks OpenAI's dialect of JSON: one kept-alive client, time limits, errors in plain words.

Bytes counted: HTTP bodies as sent and received, plus start lines and headers as they stand in HTTP/1.1; TCP and TLS
framing are not. No retries here (see ``resilience``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from actors.engine import FinishReason, Sampling
from actors.engine_settings import RemoteSettings
from policies.errors import EngineError, Refused, Unreachable
from policies.toolcalls import compact

# Calls on the wire at once; beyond it a call waits for a free connection as long as for a new one, then fails.
MAX_CONNECTIONS = 64
MAX_ANSWER_BYTES = 8 * 2**20  # an answer larger than this is no chat completion; reading it would fill memory
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading JSON of an unknown form raises."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, and what it cost on the link."""

    body: bytes
    up_bytes: int
    down_bytes: int


class Endpoint:
    """Everything below ``base_url``.

    Args:
        base_url: up to and with the version part (``https://api.openai.com/v1``).
        settings: key and time limits.

    Raises:
        EngineError: ``base_url`` is not an http(s) URL.
    """

    def __init__(self, base_url: str, settings: RemoteSettings) -> None:
        self._settings = settings
        url = _url(base_url)
        self._base = url.copy_with(username=None, password=None)  # httpx logs the URLs it calls
        self._client = _client(url, settings)

    def url(self, path: str) -> str:
        """The full URL of ``path``, without credentials."""
        return f"{self._base}{path}"

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Send ``body`` as JSON, without the fields that are None.

        Raises:
            Unreachable: no whole answer came in time.
            Refused: it answered with an error; repeats its words.
            EngineError: what came is no answer.
        """
        given = {name: value for name, value in body.items() if value is not None}
        return await self._call("POST", self.url(path), compact(given).encode())

    async def get(self, path: str) -> Reply:
        """Read ``path``; raises what ``post`` does."""
        return await self._call("GET", self.url(path), b"")

    async def close(self) -> None:
        """End its connections."""
        await self._client.aclose()

    async def _call(self, method: str, url: str, body: bytes) -> Reply:
        try:
            async with (
                asyncio.timeout(self._settings.deadline_s),
                self._client.stream(method, url, content=body or None) as got,
            ):
                content = await self._read(url, got)
        except TimeoutError as why:
            raise Unreachable(f"{url}: no answer within {self._settings.deadline_s:g} s") from why
        except httpx.TransportError as why:
            raise Unreachable(f"{url}: {type(why).__name__} {self._clean(str(why))}".rstrip()) from why
        except httpx.HTTPError as why:
            raise EngineError(f"{url}: {type(why).__name__} {self._clean(str(why))}".rstrip()) from why
        if not got.is_success:
            raise Refused(f"{url} answered {got.status_code}: {self._complaint(content)}", got.status_code)
        up, down = _header_bytes(got.request.headers), _header_bytes(got.headers)
        return Reply(content, len(body) + up, got.num_bytes_downloaded + down)

    async def _read(self, url: str, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise EngineError(f"{url}: its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return bytes(content)

    def _complaint(self, body: bytes) -> str:
        """The upstream's own words, at most 300 characters of them."""
        text = body.decode(errors="replace")
        try:
            error = json.loads(text)
            error = error.get("error", error.get("message", error.get("detail", error)))
            text = str(error["message"] if isinstance(error, dict) else error)
        except MALFORMED:
            pass  # not OpenAI's error shape: the raw text will do
        return self._clean(" ".join(text.split())[:300]) or "(no message)"

    def _clean(self, text: str) -> str:
        """``text`` without the API key, which some servers repeat in their errors."""
        key = self._settings.api_key
        return text.replace(key, "***") if key else text


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The part of a request's body that says how to sample."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "n": sampling.n,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
    }


def finish_reason(told: Any) -> FinishReason:
    """Why an answer ended, from what the endpoint calls it."""
    return "length" if told == "length" else "stop"


def cached_tokens(usage: Mapping[str, Any]) -> int:
    """How many tokens of the prompt the endpoint says it had at hand."""
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.rstrip("/"))
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


def _header_bytes(headers: httpx.Headers) -> int:
    start_line, blank_line, separators = 40, 2, 4
    return start_line + blank_line + sum(len(key) + len(value) + separators for key, value in headers.raw)
