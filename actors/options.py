"""The settings of the actors layer: engines, the cloud leg, the offload log, the model store, the learner.

``orchestrator.config`` composes these with the cluster's (``cluster.options``) into one file's worth of
settings. A default of the program exists here and nowhere else; a setting is documented here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class Options(BaseModel):
    """A frozen group of settings; an unknown key is an error, a field's docstring is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class EngineOptions(Options):
    """One model and the engine that runs it."""

    kind: Literal["vllm", "transformers", "openai"] = "vllm"
    """vllm (in this process), transformers (where vLLM cannot run) or openai (an OpenAI-compatible endpoint)."""

    model: str = "bundled:edge"
    """bundled:edge, a local Hugging Face directory, a Hugging Face id, or the endpoint's own model name."""

    base_url: str | None = None
    """For kind openai: URL of the endpoint, up to and including /v1."""

    api_key_env: str | None = None
    """For kind openai: name of the environment variable that holds the key; null sends none."""

    max_model_len: int | None = Field(default=None, ge=16)
    """Longest prompt and answer together, in tokens; null takes the model's own limit."""

    dtype: Dtype = "auto"
    """Number format of the weights; auto takes what the model was saved in."""

    kv_cache_mb: int | None = Field(default=64, ge=1)
    """Size of the engine's KV cache in MiB; null lets the engine fill the device (GPU)."""

    threads: int = Field(default=1, ge=1)
    """CPU threads of the engine."""


class CallOptions(Options):
    """How the edge calls the cloud: time limits, retries, circuit breaker."""

    connect_timeout_s: float = Field(default=3.0, gt=0)
    """Longest wait for a connection, in seconds."""

    timeout_s: float = Field(default=20.0, gt=0)
    """Longest wait for the whole answer, retries included, in seconds."""

    attempts: int = Field(default=2, ge=1, le=10)
    """Tries for one request, the first included."""

    backoff_s: float = Field(default=0.1, gt=0)
    """Mean wait before the second try, in seconds; doubles with each try and is jittered."""

    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row after which calls are refused at once."""

    breaker_open_s: float = Field(default=5.0, gt=0)
    """Seconds after which one call is let through again to see whether the cloud is back."""


class LogOptions(Options):
    """The offload log."""

    dir: Path = Path("log")
    """Directory of the segments; relative to var."""

    segment_records: int = Field(default=512, ge=1)
    """Records after which a segment is closed."""

    segment_bytes: int = Field(default=4 << 20, ge=4096)
    """Bytes after which a segment is closed."""

    keep_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Bytes of log kept; the oldest files beyond it are deleted."""

    sync: bool = True
    """Whether every batch is synced to the disk: without it a record survives a kill, but not a power cut."""


class StoreOptions(Options):
    """The model store."""

    dir: Path = Path("models")
    """Directory of the published versions; relative to var."""

    keep: int = Field(default=8, ge=2)
    """Versions kept; older ones are deleted, the live one never."""


class LearnerOptions(Options):
    """One training round on the offload log, and the gate behind it."""

    min_samples: int = Field(default=100, ge=8)
    """Labelled records below which no round is run."""

    gate_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the labelled records (by request hash) kept from training for the gate and the calibrator."""

    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""

    variants: int = Field(default=8, ge=1, le=64)
    """Versions of every labelled record to train on (other numbers, other tools beside the called); 1: as it is."""

    batch_size: int = Field(default=16, ge=1)
    """Records in one step."""

    lr: float = Field(default=1.5e-3, gt=0)
    """Peak learning rate."""

    anchor_weight: float = Field(default=0.5, ge=0)
    """Weight of the KL term that holds the candidate near the model it started from."""

    drift_cap: float = Field(default=2.0, gt=0)
    """Largest KL from the parent, in nats per token on held-out records, that passes the gate."""

    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence level of the gate's paired bootstrap interval on success."""

    threads: int = Field(default=1, ge=1)
    """CPU threads of the training worker."""

    seed: int = 0
    """Seed of batches and bootstrap."""

    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which a round is given up; the old version stays live."""
