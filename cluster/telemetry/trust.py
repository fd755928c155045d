"""How the two ends of the telemetry know each other: by a shared token, by certificates, by both, or not at all.

With certificates each end shows its own, signed by an authority that the other knows (mutual TLS), and nobody between
them can read or change a word. A token alone keeps strangers out and hides nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
from grpc import aio

from cluster.telemetry.channel import Options

HEADER = "authorization"


@dataclass(frozen=True, slots=True)
class Trust:
    """What one end shows and asks for.

    Args:
        token: shown by sites, asked for by the router; None for none.
        ca, cert, key: in PEM; all empty for no encryption.
    """

    token: str | None = field(default=None, repr=False)
    ca: bytes = b""
    cert: bytes = b""
    key: bytes = field(default=b"", repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a site sends with every call."""
        return ((HEADER, f"Bearer {self.token}"),) if self.token else ()

    def channel(self, target: str, options: Options) -> aio.Channel:
        """A site's channel to ``target``."""
        if not self.cert:
            return aio.insecure_channel(target, options=options)
        return aio.secure_channel(target, grpc.ssl_channel_credentials(self.ca, self.key, self.cert), options=options)

    def listen(self, server: aio.Server, address: str) -> int:
        """Have ``server`` listen at ``address``; returns the port.

        Raises:
            RuntimeError: the address cannot be used.
        """
        if not self.cert:
            return server.add_insecure_port(address)
        shown = [(self.key, self.cert)]
        return server.add_secure_port(address, grpc.ssl_server_credentials(shown, self.ca, require_client_auth=True))

    def admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call with this metadata may be answered."""
        if self.token is None:
            return True
        shown = next((value for name, value in metadata if name == HEADER), "")
        given = shown if isinstance(shown, bytes) else shown.encode()
        return hmac.compare_digest(given, f"Bearer {self.token}".encode())


NOBODY = Trust()
"""Neither token nor certificates."""
