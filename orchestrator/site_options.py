"""The settings of one edge site: its endpoint, its engine, who may ask. ``config`` composes them with the others'."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from actors.options import EngineOptions, Options


class SiteOptions(Options):
    """The edge site: its OpenAI endpoint and its engine."""

    name: str = Field(default="local", pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")
    """Name of the site in logs, metrics and Ray; lower-case letters, digits and dashes."""

    host: str = "127.0.0.1"
    """Address the endpoint listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port of the endpoint; 0 picks a free one."""

    served_model: str = "netgpt"
    """Model name that clients send."""

    engine: EngineOptions = EngineOptions()
    """The edge model."""

    audit_rate: float = Field(default=0.05, ge=0, le=1)
    """Share of the answers served by the edge that the cloud also answers in the background, for the log."""

    body_limit_bytes: int = Field(default=2 << 20, ge=1024)
    """Largest request body; a larger one is answered 413."""

    max_in_flight: int = Field(default=64, ge=1)
    """Requests handled at once; more wait in line."""

    max_waiting: int = Field(default=256, ge=0)
    """Requests that may wait in line, those of batch keys behind all others; more are answered 429 with Retry-After."""

    tls_cert: Path | None = None
    """PEM file of the endpoint's certificate, with the chain up to its authority; null serves plain HTTP."""

    tls_key: Path | None = None
    """PEM file of its private key."""

    keys: bool = False
    """Whether clients need an API key (netgpt keys create). Without, whoever reaches the port may ask."""
