"""The configured way to the cloud, for whoever asks it: a site for its clients, a round for its gate."""

from __future__ import annotations

import os

from actors.build import build_cloud_leg
from actors.engine import Engine
from actors.engine_settings import RemoteSettings
from orchestrator.config import Config
from policies.breaker import BreakerPolicy
from policies.errors import BadConfig


def cloud_leg(config: Config, base_url: str, model: str) -> Engine:
    """The cloud at ``base_url`` (up to and including /v1), where its model is called ``model``.

    Raises:
        BadConfig: the key is missing from the environment.
    """
    call, key = config.cloud.call, api_key("cloud.api_key_env", config.cloud.api_key_env)
    settings = RemoteSettings(
        api_key=key,
        connect_s=call.connect_timeout_s,
        idle_s=call.timeout_s,
        deadline_s=call.timeout_s,
        attempts=call.attempts,
        backoff_s=call.backoff_s,
        breaker=BreakerPolicy(call.breaker_failures, call.breaker_open_s),
    )
    return build_cloud_leg(base_url, model, settings)


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
