"""The engines by name, and the cloud leg with everything around it: the stack is assembled here and nowhere else.

An engine's libraries are imported when one is asked for: a program whose model is remote never imports torch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.adapter_base import whole
from actors.engine import Engine
from actors.engine_settings import LocalSettings, RemoteSettings
from actors.hedging import Hedged
from actors.remote_engine import RemoteEngine
from actors.resilience import BreakerEngine, Retrying
from actors.single_flight import SingleFlight
from actors.upstreams import Upstream, Upstreams
from policies.errors import BadConfig


@dataclass(frozen=True, slots=True)
class CloudEndpoint:
    """Where a cloud model is asked; ``weight`` and ``tier`` as in ``actors.upstreams``."""

    base_url: str
    model: str
    settings: RemoteSettings
    weight: float = 1.0
    tier: int = 0


async def build_engine(kind: str, source: str | Path, version: str, settings: LocalSettings | None = None) -> Engine:
    """A local engine, loaded and warm.

    Args:
        kind: a key of ``ENGINES``.
        source: a model directory, or a Hugging Face id.
        version: what its weights are called.
        settings: how to run it.

    Raises:
        BadConfig: no engine has that name.
        EngineError: the model cannot be loaded; names it and says why.
    """
    if kind not in ENGINES:
        raise BadConfig(f"engine {kind!r} is unknown. Fix: choose one of {', '.join(sorted(ENGINES))}")
    return await ENGINES[kind](source, version, settings or LocalSettings())


def build_cloud(endpoints: Sequence[CloudEndpoint], hedge_share: float = 0.0) -> Engine:
    """The cloud: ``endpoints``, equal questions asked once, stragglers asked twice where that is allowed.

    Args:
        hedge_share: of the calls that may be made twice.
    """
    legs = [Upstream(build_cloud_leg(one.base_url, one.model, one.settings), one.weight, one.tier) for one in endpoints]
    cloud: Engine = legs[0].engine if len(legs) == 1 else Upstreams(legs)
    return SingleFlight(Hedged(cloud, hedge_share) if hedge_share else cloud)


def build_cloud_leg(base_url: str, model: str, settings: RemoteSettings | None = None) -> BreakerEngine:
    """One OpenAI-compatible endpoint: asked, asked again in time, left alone while it fails."""
    settings = settings or RemoteSettings()
    remote = RemoteEngine(base_url, model, settings)
    retrying = Retrying(
        remote,
        name=remote.endpoint,
        attempts=settings.attempts,
        deadline_s=settings.deadline_s,
        backoff_s=settings.backoff_s,
        backoff_max_s=settings.backoff_max_s,
    )
    return BreakerEngine(retrying, name=remote.endpoint, policy=settings.breaker)


async def shared_engine(
    base_url: str, site: str, path: Path, version: str, settings: RemoteSettings, max_model_len: int | None = None
) -> Engine:
    """One site's engine on a vLLM server that sites share, with ``path`` live; raises ``EngineError``."""
    from actors.adapter_server import AdapterServer  # noqa: PLC0415

    engine = AdapterServer(base_url, whole(path), site, settings)
    try:
        await engine.setup(path, version, max_model_len)
    except BaseException:
        await engine.close()
        raise
    return engine


async def _vllm(source: str | Path, version: str, settings: LocalSettings) -> Engine:
    from actors.vllm_engine import VllmEngine  # noqa: PLC0415

    engine = VllmEngine(source, version, settings)
    await engine.setup()
    return engine


async def _transformers(source: str | Path, version: str, settings: LocalSettings) -> Engine:
    from actors.transformers_engine import TransformersEngine  # noqa: PLC0415

    engine = TransformersEngine(source, version, settings)
    await engine.setup()
    return engine


ENGINES: dict[str, Callable[[str | Path, str, LocalSettings], Awaitable[Engine]]] = {
    "vllm": _vllm,
    "transformers": _transformers,
}
