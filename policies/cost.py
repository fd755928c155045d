"""What asking the cloud costs: money, seconds, and both in one currency (DESIGN section 5).

Pure functions of the work, the link, the prices and the cloud's speed. A cascade has already paid for its draft, so
only what the cloud adds is counted. kappa falls with bandwidth and rises with RTT and with every price.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from operator import attrgetter, mul

import numpy as np

from policies.checks import nonnegative
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

MTOK = 1e6
GB = 1e9
_VALUES = {
    record: attrgetter(*(field.name for field in fields(record)))
    for record in (LinkState, Prices, CloudSpeed, CloudWork)
}
DEAD_BPS = 1.0  # a link with no bandwidth is priced as one bit a second: absurdly late, yet a number


def cloud_cost_usd(work: CloudWork, prices: Prices) -> float:
    """C_c in dollars: request, tokens (cached ones at their own price) and bytes both ways.

    Raises:
        ValueError: a price or an amount is negative or not finite, or more tokens are cached than sent.
    """
    _check(prices=prices)
    one, fresh, cached, output, up, down = _amounts(work)
    tokens = prices.input_usd_per_mtok * fresh + prices.cached_usd_per_mtok * cached
    tokens += prices.output_usd_per_mtok * output
    return prices.request_usd * one + tokens / MTOK + prices.transfer_usd_per_gb * (up + down) / GB


def cloud_latency_s(work: CloudWork, link: LinkState, speed: CloudSpeed) -> float:
    """L_c in seconds: round trips, bytes up and down, first token, and the answer's tokens.

    Raises:
        ValueError: a figure is negative or not finite.
    """
    _check(link=link, speed=speed, work=work)
    wire = speed.round_trips * link.rtt_ms / 1e3
    upload = 8.0 * work.up_bytes / max(link.up_bps, DEAD_BPS)
    download = 8.0 * work.down_bytes / max(link.down_bps, DEAD_BPS)
    return wire + upload + download + speed.ttft_s + speed.per_token_s * work.output_tokens


def unit_prices(state: RoutingState, speed: CloudSpeed, objective: Objective) -> FloatArray:
    """What one unit of each of ``amounts`` costs in ``state``, money and priced time together: shape [6], dollars.

    kappa is linear in the request: its inner product with ``amounts``. One state's prices serve many requests.

    Raises:
        ValueError: a figure is negative or not finite.
    """
    return np.array(_units(state, speed, objective))


def amounts(work: CloudWork) -> FloatArray:
    """What ``unit_prices`` are paid for: 1, fresh, cached and output tokens, bytes up and down; shape [6].

    Raises:
        ValueError: an amount is negative or not finite, or more tokens are cached than sent.
    """
    return np.array(_amounts(work))


def kappa(work: CloudWork, state: RoutingState, speed: CloudSpeed, objective: Objective) -> float:
    """The price of asking the cloud in dollars: C_c + lambda * L_c."""
    return float(sum(map(mul, _units(state, speed, objective), _amounts(work))))


def _units(state: RoutingState, speed: CloudSpeed, objective: Objective) -> tuple[float, ...]:
    link, prices, second = state.link, state.prices, objective.second_usd
    _check(link=link, prices=prices, speed=speed)
    nonnegative(second_usd=second, queue_s=state.queue_s)
    waiting = speed.round_trips * link.rtt_ms / 1e3 + state.queue_s + speed.ttft_s
    transfer = prices.transfer_usd_per_gb / GB
    return (
        prices.request_usd + second * waiting,
        prices.input_usd_per_mtok / MTOK,
        prices.cached_usd_per_mtok / MTOK,
        prices.output_usd_per_mtok / MTOK + second * speed.per_token_s,
        transfer + second * 8.0 / max(link.up_bps, DEAD_BPS),
        transfer + second * 8.0 / max(link.down_bps, DEAD_BPS),
    )


def _amounts(work: CloudWork) -> tuple[float, ...]:
    _check(work=work)
    if work.cached_tokens > work.input_tokens:
        raise ValueError(f"work.cached_tokens must be <= work.input_tokens, got {work.cached_tokens}")
    fresh = work.input_tokens - work.cached_tokens
    return (1.0, fresh, work.cached_tokens, work.output_tokens, work.up_bytes, work.down_bytes)


def _check(**records: LinkState | Prices | CloudSpeed | CloudWork) -> None:
    """Every figure is finite and >= 0; names are only spelt out for the one that is not."""
    for owner, record in records.items():
        values = _VALUES[type(record)](record)
        if not (min(values) >= 0.0 and sum(values) < math.inf):  # a NaN makes the sum one
            nonnegative(**{f"{owner}.{name}": value for name, value in asdict(record).items()})
