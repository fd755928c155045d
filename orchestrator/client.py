"""The Python SDK: the ``openai`` client, with typed route metadata on every answer.

``NetGPT`` and ``AsyncNetGPT`` ask a site and return a ``RoutedAnswer``: content, tool calls, and who answered, with
which score against which threshold, from which weights. For everything else (streaming, other endpoints) the
plain ``openai`` client is there as ``.openai``. Imports openai, httpx and pydantic only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, cast

from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

BASE_URL = "http://127.0.0.1:8000/v1"
MODEL = "netgpt"
TIMEOUT_S = 60.0
KEY_ENV = "NETGPT_API_KEY"
NO_KEY = "none"  # a site that asks for none is content, and the openai client insists on one


class Controls(TypedDict, total=False):
    """What one request may say about its way.

    ``route``: who has to answer (``auto`` leaves it to the site); ``max_cost_usd``: what the cloud may cost at most;
    ``deadline_ms``: from the request's arrival to its answer; ``private``: it does not leave the edge, and the site
    keeps no record of it.
    """

    route: Literal["auto", "edge", "cloud"]
    max_cost_usd: float
    deadline_ms: float
    private: bool


class Record(BaseModel):
    """Frozen, and open to fields a newer site may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Latency(Record):
    """Where the time went, in milliseconds; ``cloud`` is 0 when it was not asked."""

    draft: float
    cloud: float
    total: float


class Link(Record):
    """The site's link when it decided."""

    rtt_ms: float
    up_bps: float
    down_bps: float
    jitter_ms: float
    loss: float
    up: bool


class RouteInfo(Record):
    """Who answered a request, and everything that decided it."""

    route: Literal["edge", "cloud"]
    reason: str
    score: float
    threshold: float
    version: str
    edge_version: str
    degraded: bool
    cost_usd: float
    latency_ms: Latency
    link: Link


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call with its arguments as Python values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RoutedAnswer:
    """One answer: OpenAI's completion as it came, and the site's own account of it in ``info``."""

    completion: ChatCompletion
    info: RouteInfo

    @property
    def content(self) -> str | None:
        """The answer's prose."""
        return self.completion.choices[0].message.content

    @property
    def tool_calls(self) -> list[Call]:
        """The calls the model wants made, in order."""
        calls = self.completion.choices[0].message.tool_calls or []
        return [Call(c.function.name, json.loads(c.function.arguments)) for c in calls if c.type == "function"]

    @property
    def route(self) -> Literal["edge", "cloud"]:
        """Who answered."""
        return self.info.route

    @property
    def score(self) -> float:
        """Calibrated probability that the edge draft is correct."""
        return self.info.score

    @property
    def threshold(self) -> float:
        """What the score had to reach to stay at the edge."""
        return self.info.threshold

    @property
    def version(self) -> str:
        """The weights that made the answer."""
        return self.info.version

    @property
    def degraded(self) -> bool:
        """Whether an edge draft stands in for a cloud that was not to be had."""
        return self.info.degraded

    @property
    def cost_usd(self) -> float:
        """What the cloud charged."""
        return self.info.cost_usd


class NetGPT:
    """Asks one site.

    Args:
        base_url: of the site, up to and including ``/v1``.
        model: the name it serves.
        timeout_s: longest wait for an answer.
        max_retries: further tries after a connection error, 429 or 5xx; a site's Retry-After is honoured.
        api_key: for a site that asks for one; by default what the environment variable NETGPT_API_KEY holds.
    """

    def __init__(
        self,
        base_url: str = BASE_URL,
        *,
        model: str = MODEL,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = 2,
        api_key: str | None = None,
    ) -> None:
        self.model = model
        self.openai = OpenAI(base_url=base_url, api_key=_key(api_key), timeout=timeout_s, max_retries=max_retries)

    def ask(
        self,
        messages: str | Iterable[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        controls: Controls | None = None,
        **options: Any,
    ) -> RoutedAnswer:
        """Ask one question.

        Args:
            messages: OpenAI messages, or a user's text.
            tools: OpenAI tools on offer.
            controls: who answers, for how much, by when; by default the site decides.
            options: any other field of a chat completion (``temperature``, ``tool_choice``, ...), not ``stream``.

        Raises:
            openai.APIError: as the ``openai`` client raises them (``BadRequestError``, ``APIConnectionError``, ...).
            ValueError: the endpoint is not a NetGPT site.
        """
        fields = _fields(self.model, messages, tools, controls, options)
        return _routed(self.openai.chat.completions.create(**fields))

    def feedback(
        self, answer: RoutedAnswer | str, right: bool | None = None, message: Mapping[str, Any] | None = None
    ) -> None:
        """Tell the site about an answer (or its id): whether it was right, or what it should have been.

        Args:
            message: an assistant's message as OpenAI writes it, with content or tool_calls.
        """
        self.openai.post("/feedback", cast_to=object, body=_verdict(answer, right, message))

    def close(self) -> None:
        """Close the connections."""
        self.openai.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncNetGPT:
    """``NetGPT`` for asyncio; same arguments, same answers."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        *,
        model: str = MODEL,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = 2,
        api_key: str | None = None,
    ) -> None:
        self.model = model
        self.openai = AsyncOpenAI(base_url=base_url, api_key=_key(api_key), timeout=timeout_s, max_retries=max_retries)

    async def ask(
        self,
        messages: str | Iterable[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        controls: Controls | None = None,
        **options: Any,
    ) -> RoutedAnswer:
        """See ``NetGPT.ask``."""
        fields = _fields(self.model, messages, tools, controls, options)
        return _routed(await self.openai.chat.completions.create(**fields))

    async def feedback(
        self, answer: RoutedAnswer | str, right: bool | None = None, message: Mapping[str, Any] | None = None
    ) -> None:
        """See ``NetGPT.feedback``."""
        await self.openai.post("/feedback", cast_to=object, body=_verdict(answer, right, message))

    async def close(self) -> None:
        """Close the connections."""
        await self.openai.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _verdict(answer: RoutedAnswer | str, right: bool | None, message: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {"id": answer if isinstance(answer, str) else answer.completion.id, "right": right, "message": message}
    return {name: value for name, value in given.items() if value is not None}


def _key(given: str | None) -> str:
    return given or os.environ.get(KEY_ENV) or NO_KEY


def _fields(
    model: str,
    messages: str | Iterable[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    controls: Controls | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    if options.get("stream"):
        raise ValueError("stream: an answer with metadata comes whole; use .openai for a stream")
    asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    offered = {"tools": list(tools)} if tools else {}
    extra = {"extra_body": {**options.get("extra_body", {}), "netgpt": controls}} if controls else {}
    return {"model": model, "messages": asked, **offered, **options, **extra}


def _routed(completion: Any) -> RoutedAnswer:
    answer = cast(ChatCompletion, completion)
    told = (answer.model_extra or {}).get("netgpt")
    if told is None:
        raise ValueError("the endpoint's answer has no netgpt object: it is not a NetGPT site")
    return RoutedAnswer(answer, RouteInfo.model_validate(told))
