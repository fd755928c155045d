"""An HTTP endpoint that speaks OpenAI's dialect of JSON: one pool of kept-alive connections, time limits, plain words.

The client is aiohttp's: a call costs a tenth of a millisecond of processor time, several times less than httpx's.
Bytes counted: HTTP bodies as sent and received, plus start lines and headers as they stand in HTTP/1.1; TCP and TLS
framing are not. No retries here (see ``resilience``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from yarl import URL

from actors.engine import FinishReason, Sampling
from actors.engine_settings import RemoteSettings
from policies.errors import EngineError, Refused, Unreachable

# Calls on the wire at once; beyond it a call waits for a free connection as long as for a new one, then fails.
MAX_CONNECTIONS = 64
MAX_ANSWER_BYTES = 8 * 2**20  # an answer larger than this is no chat completion; reading it would fill memory
EVENTS = "text/event-stream"
Take = Callable[[Any], Awaitable[None]]
"""Is given the JSON of each event, whatever it is; raises one of ``MALFORMED`` where it cannot be read."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading JSON of an unknown form raises."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KEEPALIVE_S = 60.0
_WHOLE_BYTES = 1 << 20  # a larger body is sent in parts, so that the loop is not held up


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
        self._url = _url(base_url)
        self._base = self._url.with_user(None)  # what errors name has no credentials
        self._client: aiohttp.ClientSession | None = None  # opened by the loop that calls first
        self._urls: dict[str, URL] = {}  # of the few paths there are

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
        return await self._call("POST", path, orjson.dumps(given))

    async def stream(self, path: str, body: Mapping[str, Any], take: Take) -> Reply:
        """As ``post``, handing every server-sent event to ``take``; what came instead of events is the reply's body.

        Raises:
            EngineError: an event is no JSON object, besides what ``post`` raises.
        """
        given = {name: value for name, value in body.items() if value is not None}
        return await self._call("POST", path, orjson.dumps(given), take)

    async def get(self, path: str) -> Reply:
        """Read ``path``; raises what ``post`` does."""
        return await self._call("GET", path, b"")

    async def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            await self._client.close()

    async def _call(self, method: str, path: str, body: bytes, take: Take | None = None) -> Reply:
        url = self._urls.setdefault(path, URL(self.url(path), encoded=True))
        client = self._client = self._client or _client(self._url, self._settings)
        sent = io.BytesIO(body) if len(body) > _WHOLE_BYTES else body or None
        try:
            async with client.request(method, url, data=sent, allow_redirects=False) as got:
                events = take if take and got.ok and got.content_type == EVENTS else None
                content = await (self._follow(url, got, events) if events else self._read(url, got))
        except aiohttp.ServerTimeoutError as why:
            raise Unreachable(f"{url}: {_words(why)}") from why
        except TimeoutError as why:
            raise Unreachable(f"{url}: no answer within {self._settings.deadline_s:g} s") from why
        except aiohttp.ClientError as why:
            raise Unreachable(f"{url}: {self._clean(_words(why))}") from why
        if not got.ok:
            raise Refused(f"{url} answered {got.status}: {self._complaint(content)}", got.status)
        sent_headers = ((k.encode(), v.encode()) for k, v in got.request_info.headers.items())
        up, down = _header_bytes(sent_headers), _header_bytes(got.raw_headers)
        return Reply(content, len(body) + up, got.content.total_raw_bytes + down)

    async def _read(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        while part := await response.content.readany():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise EngineError(f"{url}: its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return b"".join(parts)

    async def _follow(self, url: URL, response: aiohttp.ClientResponse, take: Take) -> bytes:
        """Hand on every event up to the one that says ``[DONE]``; nothing is left to read."""
        size, lines = 0, response.content
        while line := await lines.readline():
            size += len(line)
            if size > MAX_ANSWER_BYTES:
                raise EngineError(f"{url}: its answer is longer than {MAX_ANSWER_BYTES} bytes")
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                await lines.read()  # the end of the body, so that the connection can be used again
                return b""
            if data:
                try:
                    await take(orjson.loads(data))
                except MALFORMED as why:
                    raise EngineError(f"{url}: an event of its answer cannot be read: {why!r}") from why
        raise Unreachable(f"{url}: its answer broke off")

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
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
    }


def finish_reason(told: Any) -> FinishReason:
    """Why an answer ended, from what the endpoint calls it."""
    return "length" if told == "length" else "stop"


def cached_tokens(usage: Mapping[str, Any]) -> int:
    """How many tokens of the prompt the endpoint says it had at hand."""
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _url(base_url: str) -> URL:
    try:
        url = URL(base_url.rstrip("/"))
    except ValueError as why:
        raise EngineError(f"endpoint {base_url!r} is not a URL: {why}") from why
    if url.scheme not in ("http", "https") or not url.host:
        raise EngineError(f"endpoint {base_url!r} is not an http(s) URL, such as http://127.0.0.1:8000/v1")
    return url


def _client(url: URL, settings: RemoteSettings) -> aiohttp.ClientSession:
    headers = {"content-type": "application/json"}
    if settings.api_key:
        headers["authorization"] = f"Bearer {settings.api_key}"
    elif url.user:
        headers["authorization"] = aiohttp.encode_basic_auth(url.user, url.password or "")
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(settings.deadline_s, settings.connect_s, settings.idle_s),
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=_proxy(url),
    )


def _proxy(url: URL) -> str | None:
    """The environment's proxy for ``url``; an emulated link listens on loopback, and none may take its place."""
    if url.host in _LOOPBACK or proxy_bypass(str(url.host)):
        return None
    return getproxies().get(url.scheme)


def _words(why: Exception) -> str:
    return f"{type(why).__name__} {why}".rstrip()


def _header_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    start_line, blank_line, separators = 40, 2, 4
    return start_line + blank_line + sum(len(key) + len(value) + separators for key, value in headers)
