# Written by hand beside the generated module, which carries no types (grpc.aio forms only).
from collections.abc import AsyncIterable, AsyncIterator

from grpc.aio import (
    Channel,
    Server,
    ServicerContext,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)

from cluster.telemetry import telemetry_pb2 as pb

class TelemetryStub:
    Report: StreamUnaryMultiCallable[pb.LinkReport, pb.ReportAck]
    Watch: UnaryStreamMultiCallable[pb.SiteId, pb.Directive]
    Probe: UnaryUnaryMultiCallable[pb.ProbeRequest, pb.ProbeReply]
    def __init__(self, channel: Channel) -> None: ...

class TelemetryServicer:
    async def Report(
        self, request_iterator: AsyncIterable[pb.LinkReport], context: ServicerContext[pb.LinkReport, pb.ReportAck]
    ) -> pb.ReportAck: ...
    def Watch(
        self, request: pb.SiteId, context: ServicerContext[pb.SiteId, pb.Directive]
    ) -> AsyncIterator[pb.Directive]: ...
    async def Probe(
        self, request: pb.ProbeRequest, context: ServicerContext[pb.ProbeRequest, pb.ProbeReply]
    ) -> pb.ProbeReply: ...

def add_TelemetryServicer_to_server(servicer: TelemetryServicer, server: Server) -> None: ...
