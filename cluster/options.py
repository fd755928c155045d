"""The settings of the cluster layer: the Ray session, the cloud app, the link and the telemetry.

Composed by ``orchestrator.config``. A default exists here and nowhere else; a setting is documented here and
nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from actors.options import CallOptions, Dtype, Options, UpstreamOptions


def _rate(value: Any) -> Any:
    """A number where YAML read ``50e6`` as a string; a trace's name stays a string."""
    try:
        rate = float(value)
    except (TypeError, ValueError):
        return value
    if not 0 < rate < float("inf"):
        raise ValueError(f"a rate of {value} bit/s is not allowed. Fix: give more than 0, or set outage: true")
    return rate


Rate = Annotated[float | str, BeforeValidator(_rate)]


class RayOptions(Options):
    """The Ray session: our own on this machine, or an existing cluster."""

    address: str | None = None
    """null starts Ray here; auto or host:port joins a running cluster (its token in RAY_AUTH_TOKEN)."""

    host: str = "127.0.0.1"
    """Address the dashboard listens on."""

    dashboard_port: int = Field(default=8265, ge=0, le=65535)
    """TCP port of the Ray dashboard; 0 picks a free one."""

    num_cpus: int = Field(default=8, ge=2)
    """CPU shares Ray hands out here. Ours are fractions of a core each, so this may exceed the real cores."""

    temp_dir: Path | None = None
    """Where Ray keeps sockets and logs; null is Ray's own choice. At most 40 characters (Unix socket names)."""

    log_to_driver: bool = False
    """Whether the actors' output appears in this terminal; it is always in the dashboard."""

    object_store_mb: int = Field(default=128, ge=76)
    """Shared memory for Ray's objects, in MiB; ours are small."""


class CloudOptions(Options):
    """The large model: our own Serve app, or any OpenAI-compatible endpoint."""

    kind: Literal["serve", "openai"] = "serve"
    """serve runs vLLM behind Ray Serve on this cluster; openai calls base_url."""

    model: str = "bundled:cloud"
    """bundled:cloud, a local Hugging Face directory, a Hugging Face id, or the endpoint's own model name."""

    base_url: str | None = None
    """For kind openai: URL of the endpoint, up to and including /v1."""

    api_key_env: str | None = None
    """For kind openai: name of the environment variable that holds the key; null sends none."""

    host: str = "127.0.0.1"
    """For kind serve: address the Serve proxy listens on."""

    port: int = Field(default=0, ge=0, le=65535)
    """For kind serve: TCP port of the Serve proxy; 0 picks a free one."""

    replicas: int = Field(default=1, ge=1)
    """For kind serve: engines that always run."""

    max_replicas: int | None = Field(default=None, ge=1)
    """For kind serve: engines Serve may scale up to; null keeps replicas fixed."""

    gpus_per_replica: int = Field(default=0, ge=0)
    """For kind serve: GPUs of one engine (tensor parallel); 0 runs on CPU."""

    threads: int = Field(default=1, ge=1)
    """For kind serve on CPU: threads of one engine."""

    dtype: Dtype = "auto"
    """For kind serve: number format of the weights."""

    max_model_len: int | None = Field(default=None, ge=16)
    """For kind serve: longest prompt and answer together, in tokens; null takes the model's own limit."""

    kv_cache_mb: int | None = Field(default=128, ge=1)
    """For kind serve: KV cache of one engine in MiB; null lets the engine fill the device (GPU)."""

    tool_parser: str = "hermes"
    """For kind serve: vLLM's parser of the model's tool-call syntax."""

    haproxy: bool = True
    """For kind serve: HAProxy as the ingress where it runs, else Serve's own proxy."""

    deploy_timeout_s: float = Field(default=600.0, gt=0)
    """For kind serve: seconds to wait for the app to become healthy; a first download counts in."""

    more: tuple[UpstreamOptions, ...] = ()
    """Further endpoints to share the load with or to fall back on, at the same prices."""

    call: CallOptions = CallOptions()
    """How the edge calls the cloud."""


class LinkSpecOptions(Options):
    """One state of the emulated link."""

    name: str = "wide"
    """Name in tables and logs."""

    up: Rate = 50e6
    """Edge to cloud: bits per second, or the name or file of a Mahimahi trace."""

    down: Rate = 100e6
    """Cloud to edge: bits per second, or the name or file of a Mahimahi trace."""

    delay_ms: float = Field(default=10.0, ge=0)
    """One-way delay, in milliseconds."""

    jitter_ms: float = Field(default=0.0, ge=0)
    """Standard deviation of the one-way delay, in milliseconds."""

    loss: float = Field(default=0.0, ge=0, lt=1)
    """Share of packets lost; over TCP a loss is a stall."""

    outage: bool = False
    """Whether nothing passes."""


class LinkOptions(Options):
    """The way from the edge to the cloud and to the router."""

    kind: Literal["emulated", "direct"] = "emulated"
    """emulated puts a shaped TCP forwarder between edge and cloud; direct is the machine's own network."""

    initial: LinkSpecOptions = LinkSpecOptions()
    """The emulated link's state at the start."""


class TelemetryOptions(Options):
    """The router's gRPC server and how sites measure their link."""

    host: str = "127.0.0.1"
    """Address the router listens on."""

    port: int = Field(default=0, ge=0, le=65535)
    """TCP port of the router; 0 picks a free one."""

    token_env: str | None = None
    """Name of the environment variable that holds the token which sites show the router; null asks for none."""

    tls_ca: Path | None = None
    """PEM file of the authority that signed the other end's certificate. With tls_cert and tls_key, router and sites
    show each other certificates (mutual TLS); null leaves the streams in the clear."""

    tls_cert: Path | None = None
    """PEM file of this end's certificate; the router's names the address that sites reach it by."""

    tls_key: Path | None = None
    """PEM file of this end's private key."""

    probe_interval_s: float = Field(default=1.0, gt=0)
    """Seconds between two active probes of the link."""

    probe_bytes: int = Field(default=32 << 10, ge=0, le=64 << 10)
    """Most padding of one bandwidth probe; 0 leaves bandwidth to the offloads."""

    snapshot_ttl_s: float = Field(default=30.0, gt=0)
    """Seconds a site decides with a snapshot before it falls back to its own configuration."""
