"""How engines are run: frozen settings with every default in one place. Imports nothing heavy.

``LocalSettings`` is for the engines that hold weights, ``RemoteSettings`` for the cloud leg and its wrappers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.breaker import BreakerPolicy


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How to run a model in this process; the last three are vLLM's alone.

    Args:
        max_model_len: tokens that prompt and answer may take together; None takes the model's own limit.
        dtype: a torch dtype's name (``bfloat16``, ``float32``), or ``auto`` for what the model was saved in.
        threads: CPU threads of one step; None leaves torch's default. No effect on a GPU.
        kv_cache_bytes: size of the KV cache; None lets vLLM take what it finds free.
        max_num_seqs: sequences decoded together; more wait.
        engine_args: further arguments of ``vllm.EngineArgs`` (``quantization``, ``gpu_memory_utilization``).
    """

    max_model_len: int | None = None
    dtype: str = "bfloat16"
    threads: int | None = 1
    kv_cache_bytes: int | None = 128 * 2**20
    max_num_seqs: int = 32
    engine_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How to talk to an OpenAI-compatible endpoint, and how long to insist.

    Args:
        api_key: sent as a bearer token; never part of an error or a log line.
        connect_s: seconds until a connection stands, TLS included.
        idle_s: seconds without a byte while writing or reading.
        deadline_s: seconds the whole call may take, retries included.
        attempts: calls in all, the first one included.
        backoff_s: mean pause before the second; later ones are twice as long each time, with jitter.
        backoff_max_s: longest pause.
        logprobs: whether to ask for log-probabilities; some endpoints refuse.
        body: fields sent with every request; a None removes the field of that name.
        breaker: when to stop calling a cloud that fails.
    """

    api_key: str | None = field(default=None, repr=False)
    connect_s: float = 3.0
    idle_s: float = 30.0
    deadline_s: float = 60.0
    attempts: int = 3
    backoff_s: float = 0.2
    backoff_max_s: float = 2.0
    logprobs: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
