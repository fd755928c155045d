"""A ``Router`` behind gRPC: reports in, directives out, probes echoed.

``TelemetryServer`` owns the server, nothing else; every rule about sites is the router's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from grpc import aio

from actors.router import Router
from cluster.telemetry import telemetry_pb2 as pb
from cluster.telemetry.channel import KEEPALIVE_S, MAX_PROBE_BYTES, server_options
from cluster.telemetry.convert import check_name, directive_to_message, report_from_message
from cluster.telemetry.telemetry_pb2_grpc import TelemetryServicer, add_TelemetryServicer_to_server
from cluster.telemetry.trust import NOBODY, Trust
from policies.errors import BadConfig, BadRequest

log = logging.getLogger(__name__)

STOP_GRACE_S = 0.5  # for probes under way; streams have no end of their own and are cut


class TelemetryServer:
    """Serves ``router`` at ``host:port`` to whom ``trust`` admits; port 0 picks a free one.

    ``keepalive_s`` is the pause between pings; a site that is gone is noticed after 1.5 times as long.
    """

    def __init__(
        self,
        router: Router,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        trust: Trust = NOBODY,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._trust = trust
        self._router, self._host, self._wanted, self._keepalive_s = router, host, port, keepalive_s
        self._server: aio.Server | None = None
        self.port = 0

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            BadConfig: the address cannot be used.
        """
        self._server = aio.server(options=server_options(self._keepalive_s))
        add_TelemetryServicer_to_server(_Servicer(self._router, self._trust), self._server)
        try:
            self.port = self._trust.listen(self._server, f"{self._host}:{self._wanted}")
        except RuntimeError as error:
            raise BadConfig(
                f"telemetry address {self._host}:{self._wanted} cannot be used; "
                "choose another port, or 0 for a free one"
            ) from error
        await self._server.start()
        return self.port

    async def stop(self) -> None:
        """Cut every stream and free the port."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None


class _Servicer(TelemetryServicer):
    def __init__(self, router: Router, trust: Trust) -> None:
        self._router, self._trust = router, trust

    async def _admit(self, context: aio.ServicerContext[Any, Any]) -> None:
        """End the call of whoever is not known."""
        if not self._trust.admits(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "telemetry.token_env: the token is missing or another")

    async def Report(  # noqa: N802 (gRPC's name)
        self,
        request_iterator: AsyncIterable[pb.LinkReport],
        context: aio.ServicerContext[pb.LinkReport, pb.ReportAck],
    ) -> pb.ReportAck:
        await self._admit(context)
        received = 0
        async for message in request_iterator:
            try:
                self._router.report(report_from_message(message))
            except BadRequest as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            received += 1
        return pb.ReportAck(received=received)

    async def Watch(  # noqa: N802
        self, request: pb.SiteId, context: aio.ServicerContext[pb.SiteId, pb.Directive]
    ) -> AsyncIterator[pb.Directive]:
        await self._admit(context)
        try:
            site = check_name("site", request.site)
        except BadRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        subscription = self._router.subscribe(site)
        try:
            async for directive in subscription:
                yield directive_to_message(directive)
        finally:
            self._router.unsubscribe(subscription)

    async def Probe(  # noqa: N802
        self, request: pb.ProbeRequest, context: aio.ServicerContext[pb.ProbeRequest, pb.ProbeReply]
    ) -> pb.ProbeReply:
        await self._admit(context)
        if request.reply_bytes > MAX_PROBE_BYTES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"reply_bytes is {request.reply_bytes}, must be at most {MAX_PROBE_BYTES}",
            )
        return pb.ProbeReply(padding=bytes(request.reply_bytes))
