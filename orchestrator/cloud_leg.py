"""The configured way to the cloud, for whoever asks it: a site for its clients, a round for its gate."""

from __future__ import annotations

import os

from actors.build import CloudEndpoint, build_cloud
from actors.engine import Engine
from actors.engine_settings import RemoteSettings
from orchestrator.config import Config
from policies.breaker import BreakerPolicy
from policies.errors import BadConfig


def cloud_leg(config: Config, base_url: str, model: str) -> Engine:
    """The cloud at ``base_url`` (up to and including /v1), where its model is called ``model``, and ``cloud.more``.

    Raises:
        BadConfig: a key is missing from the environment.
    """
    cloud = config.cloud
    endpoints = [CloudEndpoint(base_url, model, _settings(config, "cloud.api_key_env", cloud.api_key_env))]
    for n, one in enumerate(cloud.more):
        settings = _settings(config, f"cloud.more[{n}].api_key_env", one.api_key_env)
        endpoints.append(CloudEndpoint(one.base_url, one.model, settings, one.weight, one.tier))
    return build_cloud(endpoints, cloud.call.hedge_share)


def api_key(key: str, variable: str | None) -> str | None:
    """The secret in the environment variable that the setting ``key`` names.

    Raises:
        BadConfig: it is not set.
    """
    if variable is None:
        return None
    if not (value := os.environ.get(variable)):
        raise BadConfig(f"{key}: the environment variable {variable} is not set. Fix: export it, or set {key} to null")
    return value


def _settings(config: Config, key: str, variable: str | None) -> RemoteSettings:
    call = config.cloud.call
    return RemoteSettings(
        api_key=api_key(key, variable),
        connect_s=call.connect_timeout_s,
        idle_s=call.timeout_s,
        deadline_s=call.timeout_s,
        attempts=call.attempts,
        backoff_s=call.backoff_s,
        breaker=BreakerPolicy(call.breaker_failures, call.breaker_open_s),
    )
