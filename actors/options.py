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

    kind: Literal["vllm", "transformers", "openai", "vllm-server"] = "vllm"
    """vllm (in this process), transformers (where vLLM cannot run), openai (an OpenAI-compatible endpoint, whose
    weights stay as they are) or vllm-server (one vLLM server for several sites, each with its own adapter)."""

    model: str = "bundled:edge"
    """bundled:edge, a local Hugging Face directory, a Hugging Face id, or (openai) the endpoint's own model name."""

    base_url: str | None = None
    """For kinds openai and vllm-server: URL of the endpoint, up to and including /v1."""

    api_key_env: str | None = None
    """For the same: name of the environment variable that holds the key; null sends none."""

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

    hedge_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the calls that may be made twice, when they are slower than 95 % of those before; both are paid."""

    breaker_failures: int = Field(default=5, ge=1)
    """Failures in a row after which calls are refused at once."""

    breaker_open_s: float = Field(default=5.0, gt=0)
    """Seconds after which one call is let through again to see whether the cloud is back."""


class UpstreamOptions(Options):
    """One more OpenAI-compatible endpoint of the cloud."""

    base_url: str
    """URL up to and including /v1. It is called directly, not over an emulated link."""

    model: str
    """The endpoint's own model name."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null sends none."""

    weight: float = Field(default=1.0, gt=0)
    """Its share of the load of its tier, to the others' weights."""

    tier: int = Field(default=1, ge=0)
    """0 shares the load with cloud.base_url (weight 1, tier 0); a higher tier is asked where no lower one answers."""


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


class CanaryOptions(Options):
    """How a version that passed the gate goes live: on this system's own site first, compared with what it replaces."""

    labels: int = Field(default=200, ge=30)
    """Labels of its drafts (offloads and audits) after which it goes to every site, if it does not look worse."""

    hours: float = Field(default=24.0, gt=0)
    """Hours after which it does so unless it is proved worse."""

    watch_hours: float = Field(default=72.0, ge=0)
    """Hours for which it is still compared, and rolled back if it is proved worse; 0 ends that with the canary."""

    margin: float = Field(default=0.02, ge=0, lt=1)
    """How much success or validity may be lost without a roll-back; 0.02 is two points."""

    delta: float = Field(default=0.05, gt=0, lt=1)
    """Probability of rolling back a version that does not lose more than that, however long it is watched."""


class LearnerOptions(Options):
    """Training rounds on the offload log: when they run, how, the gate behind them and the canary after it."""

    enabled: bool = True
    """Whether a running system runs rounds by itself; without, ``netgpt train round`` does. What is live is watched
    either way. On, because each step is guarded: a round that teaches nothing publishes nothing."""

    after_labels: int = Field(default=500, ge=1)
    """New labelled records after which a round runs."""

    after_hours: float = Field(default=24.0, gt=0)
    """Hours without a round after which one runs for any new label."""

    on_drift: bool = True
    """Whether a round runs when scores or labels drift (see policy.safe_threshold)."""

    pause_minutes: float = Field(default=10.0, gt=0)
    """Least minutes between two rounds; doubles with each round that publishes nothing."""

    longest_pause_hours: float = Field(default=24.0, gt=0)
    """Bound of that pause."""

    canary: CanaryOptions = CanaryOptions()
    """How a version goes live."""

    min_samples: int = Field(default=100, ge=8)
    """Labelled records below which no round is run."""

    gate_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the labelled records (by request hash) kept from training for the gate and the calibrator."""

    gate_calls: int = Field(default=60, ge=0)
    """Calls to the cloud that a round may make, where it cannot tell otherwise whether an answer is better; 0: none."""

    half_life: int | None = Field(default=None, ge=1)
    """Labelled records after which one counts half as much in training; null forgets nothing. For requests that change
    from month to month: where they do not, what is old teaches as much."""

    known_weight: float = Field(default=1.0, gt=0, le=1)
    """What a record counts in training whose draft was right already, as a share of one whose draft was wrong."""

    steps: int = Field(default=400, ge=1)
    """Optimiser steps."""

    variants: int = Field(default=32, ge=1, le=64)
    """Versions of every labelled record to train on (other numbers, other tools beside the called); 1: as it is."""

    batch_size: int = Field(default=16, ge=1)
    """Records in one step."""

    lr: float = Field(default=1.5e-3, gt=0)
    """Peak learning rate."""

    anchor_weight: float = Field(default=1.0, ge=0)
    """Weight of the KL term that holds the candidate near the model it started from."""

    method: Literal["auto", "full", "lora"] = "auto"
    """What a round trains: full (all weights), lora (an adapter of all linear layers, some percent of the weights), or
    auto: lora above 100 million parameters. An adapter wants a higher learner.lr, and supervised steps alone."""

    lora_rank: int = Field(default=8, ge=1, le=256)
    """Rank of an adapter; its alpha is twice that. One that goes on from another has that one's."""

    personal: bool = False
    """Whether each site gets an adapter of its own, learnt from its own records, whenever a round finds nothing better
    for all sites. For sites whose requests want different answers; a site needs min_samples labelled records."""

    policy_steps: int = Field(default=0, ge=0)
    """Steps of reinforcement learning after the supervised ones, on answers that the candidate samples; each takes
    seconds. 0 by default: on a few hundred labels it gains on what they ask and loses elsewhere."""

    policy_lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate of these steps."""

    drift_cap: float = Field(default=2.0, gt=0)
    """Largest KL from the parent, in nats per token on held-out records, that passes the gate."""

    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence level of the gate's paired bootstrap interval on success."""

    threads: int = Field(default=1, ge=1)
    """CPU threads of each training worker."""

    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens of one forward pass; the gradients of a step's passes add up. Less where the GPU's memory ends."""

    workers: int = Field(default=1, ge=1)
    """Training workers that share each batch of the supervised steps, on the nodes and GPUs that Ray finds for them."""

    seed: int = 0
    """Seed of batches and bootstrap."""

    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds after which a round is given up; the old version stays live."""
