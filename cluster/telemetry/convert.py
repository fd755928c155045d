"""Telemetry's wire messages to the records of ``policies`` and back.

Messages come from outside: what cannot be a measurement (not finite, negative, a share above 1, a name
too long) is a ``BadRequest`` that names the field.
"""

from __future__ import annotations

import math

from cluster.telemetry import telemetry_pb2 as pb
from cluster.telemetry.channel import MAX_NAME
from policies.control import Directive, LinkReport, Snapshot, Swap
from policies.errors import BadRequest
from policies.types import CloudSpeed, LinkState, Objective, Prices

_FIGURES = ("rtt_ms", "jitter_ms", "up_bps", "down_bps", "loss")


def report_to_message(report: LinkReport) -> pb.LinkReport:
    """A report as sent."""
    link = report.link
    return pb.LinkReport(
        site=report.site,
        seq=report.seq,
        rtt_ms=link.rtt_ms,
        jitter_ms=link.jitter_ms,
        up_bps=link.up_bps,
        down_bps=link.down_bps,
        loss=link.loss,
        up=link.up,
        version=report.version,
        log_seq=report.log_seq,
    )


def report_from_message(message: pb.LinkReport) -> LinkReport:
    """A report as received.

    Raises:
        BadRequest: a figure or a name is impossible.
    """
    check_name("site", message.site)
    if len(message.version) > MAX_NAME:
        raise BadRequest(f"version has more than {MAX_NAME} characters", field="version")
    for name in _FIGURES:
        figure = getattr(message, name)
        if not (math.isfinite(figure) and figure >= 0):
            raise BadRequest(f"{name} is {figure}, must be finite and at least 0", field=name)
    if message.loss > 1:
        raise BadRequest(f"loss is {message.loss}, must be at most 1", field="loss")
    link = LinkState(message.rtt_ms, message.up_bps, message.down_bps, message.jitter_ms, message.loss, message.up)
    return LinkReport(message.site, message.seq, link, message.version, message.log_seq)


def check_name(field: str, name: str) -> str:
    """``name`` itself, if it can name a site.

    Raises:
        BadRequest: empty or too long.
    """
    if not 0 < len(name) <= MAX_NAME:
        raise BadRequest(f"{field} must have 1 to {MAX_NAME} characters, has {len(name)}", field=field)
    return name


def directive_to_message(directive: Directive) -> pb.Directive:
    """A directive as sent."""
    if isinstance(directive, Swap):
        swap = pb.Swap(version=directive.version, path=directive.path, sha256=directive.sha256)
        return pb.Directive(swap=swap)
    return pb.Directive(snapshot=_snapshot_to_message(directive))


def directive_from_message(message: pb.Directive) -> Directive | None:
    """A directive as received; None for a kind this version does not know.

    Raises:
        BadRequest: a snapshot no site may decide with; names the field.
    """
    kind = message.WhichOneof("kind")
    if kind == "swap":
        return Swap(message.swap.version, message.swap.path, message.swap.sha256)
    return _snapshot_from_message(message.snapshot) if kind == "snapshot" else None


def _snapshot_to_message(snapshot: Snapshot) -> pb.Snapshot:
    prices, objective, speed = snapshot.prices, snapshot.objective, snapshot.speed
    return pb.Snapshot(
        seq=snapshot.seq,
        ttl_s=snapshot.ttl_s,
        prices=pb.Prices(
            request_usd=prices.request_usd,
            input_usd_per_mtok=prices.input_usd_per_mtok,
            cached_usd_per_mtok=prices.cached_usd_per_mtok,
            output_usd_per_mtok=prices.output_usd_per_mtok,
            transfer_usd_per_gb=prices.transfer_usd_per_gb,
        ),
        objective=pb.Objective(
            value_usd=objective.value_usd,
            second_usd=objective.second_usd,
            cloud_accuracy=objective.cloud_accuracy,
        ),
        speed=pb.CloudSpeed(round_trips=speed.round_trips, ttft_s=speed.ttft_s, per_token_s=speed.per_token_s),
        threshold_floor=snapshot.threshold_floor,
    )


def _snapshot_from_message(message: pb.Snapshot) -> Snapshot:
    for name in ("prices", "objective", "speed"):  # left out, they would read as zeros: a cloud that is free
        if not message.HasField(name):
            raise BadRequest(f"snapshot {message.seq}: {name} is missing", field=name)
    try:
        return _snapshot(message)
    except ValueError as why:
        raise BadRequest(f"snapshot {message.seq}: {why}", field=str(why).split()[0]) from why


def _snapshot(message: pb.Snapshot) -> Snapshot:
    prices, objective, speed = message.prices, message.objective, message.speed
    return Snapshot(
        seq=message.seq,
        ttl_s=message.ttl_s,
        prices=Prices(
            prices.request_usd,
            prices.input_usd_per_mtok,
            prices.cached_usd_per_mtok,
            prices.output_usd_per_mtok,
            prices.transfer_usd_per_gb,
        ),
        objective=Objective(objective.value_usd, objective.second_usd, objective.cloud_accuracy),
        speed=CloudSpeed(speed.round_trips, speed.ttft_s, speed.per_token_s),
        threshold_floor=message.threshold_floor,
    )
