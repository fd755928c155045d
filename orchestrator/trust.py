"""The secrets and certificates that the configuration names: read where they are used, never kept in it."""

from __future__ import annotations

from pathlib import Path

from cluster.options import TelemetryOptions
from cluster.telemetry.trust import Trust
from orchestrator.cloud_leg import api_key
from policies.errors import BadConfig


def telemetry_trust(options: TelemetryOptions) -> Trust:
    """What this end of the telemetry shows and asks for.

    Raises:
        BadConfig: the token is not in the environment, or a file cannot be read.
    """
    files = {name: getattr(options, f"tls_{name}") for name in ("ca", "cert", "key")}
    read = {name: pem(f"telemetry.tls_{name}", file) for name, file in files.items() if file is not None}
    return Trust(api_key("telemetry.token_env", options.token_env), **read)


def pem(key: str, file: Path) -> bytes:
    """The PEM file that the setting ``key`` names.

    Raises:
        BadConfig: it cannot be read, or is none.
    """
    try:
        text = file.read_bytes()
    except OSError as why:
        raise BadConfig(f"{key}: {file} cannot be read ({why.strerror}). Fix: give a PEM file") from None
    if b"-----BEGIN" not in text:
        raise BadConfig(f"{key}: {file} is no PEM file. Fix: give one that has -----BEGIN ...----- in it")
    return text
