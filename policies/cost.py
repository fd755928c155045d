"""What asking the cloud costs: money, seconds, and both in one currency (DESIGN section 5).

Pure functions of the work, the link, the prices and the cloud's speed. A cascade has already paid for its draft, so
only what the cloud adds is counted. kappa falls with bandwidth and rises with RTT, queue and every price.

Every cost is linear in the request: an inner product with ``amounts``. ``_dollars`` and ``_seconds`` say what one unit
of each amount takes, once for all: of numbers for one decision, of columns for a log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from itertools import chain
from operator import attrgetter, mul
from typing import TypeVar

import numpy as np

from policies.checks import nonnegative
from policies.score import FloatArray
from policies.types import CloudSpeed, CloudWork, LinkState, Objective, Prices, RoutingState

MTOK = 1e6
GB = 1e9
DEAD_BPS = 1.0  # a link with no bandwidth is priced as one bit a second: absurdly late, yet a number
_VALUES = {
    record: attrgetter(*(field.name for field in fields(record)))
    for record in (LinkState, Prices, CloudSpeed, CloudWork)
}
_FIGURES = ("link.rtt_ms", "link.up_bps", "link.down_bps", "queue_s", *(f"prices.{f.name}" for f in fields(Prices)))
_read = attrgetter(*_FIGURES)

N = TypeVar("N", float, FloatArray)  # a number of one state, or a column of many states'


def cloud_cost_usd(work: CloudWork, prices: Prices) -> float:
    """C_c in dollars: request, tokens (cached ones at their own price) and bytes both ways.

    Raises:
        ValueError: a price or an amount is negative or not finite, or more tokens are cached than sent.
    """
    _check(prices=prices)
    return _inner(_dollars(*_VALUES[Prices](prices)), _amounts(work))


def cloud_latency_s(work: CloudWork, link: LinkState, speed: CloudSpeed, queue_s: float = 0.0) -> float:
    """L_c in seconds: round trips, queue, bytes up and down, first token, and the answer's tokens.

    Raises:
        ValueError: a figure is negative or not finite.
    """
    _check(link=link, speed=speed, work=work)
    nonnegative(queue_s=queue_s)
    once, _, _, per_token, per_up, per_down = _seconds(link.rtt_ms, link.up_bps, link.down_bps, queue_s, speed, max)
    return once + per_token * work.output_tokens + per_up * work.up_bytes + per_down * work.down_bytes


def kappa(work: CloudWork, state: RoutingState, speed: CloudSpeed, objective: Objective) -> float:
    """The price of asking the cloud in dollars: C_c + lambda * L_c.

    Raises:
        ValueError: a figure is negative or not finite, or more tokens are cached than sent.
    """
    figures, paid = _read(state), _amounts(work)
    if not (min(figures) >= 0.0 and sum(figures) < math.inf):
        nonnegative(**dict(zip(_FIGURES, figures, strict=True)))
    _check(speed=speed)
    nonnegative(second_usd=objective.second_usd)
    rtt_ms, up_bps, down_bps, queue_s, *prices = figures
    seconds = _inner(_seconds(rtt_ms, up_bps, down_bps, queue_s, speed, max), paid)
    return _inner(_dollars(*prices), paid) + objective.second_usd * seconds


def amounts(work: CloudWork) -> FloatArray:
    """What is paid for: 1, fresh, cached and output tokens, bytes up and down; shape [6].

    Raises:
        ValueError: an amount is negative or not finite, or more tokens are cached than sent.
    """
    return np.array(_amounts(work))


def unit_costs(states: Sequence[RoutingState], speed: CloudSpeed) -> tuple[FloatArray, FloatArray]:
    """Dollars and seconds that one unit of each of ``amounts`` takes in each state; both of shape [states, 6].

    Raises:
        ValueError: a figure is negative or not finite.
    """
    _check(speed=speed)
    size = len(states), len(_FIGURES)
    rows = np.fromiter(chain.from_iterable(map(_read, states)), np.float64, size[0] * size[1]).reshape(size)
    bad = ~(np.isfinite(rows) & (rows >= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        nonnegative(**{_FIGURES[column]: float(rows[row, column])})
    rtt_ms, up_bps, down_bps, queue_s, *prices = np.ascontiguousarray(rows.T)
    return _table(_dollars(*prices)), _table(_seconds(rtt_ms, up_bps, down_bps, queue_s, speed, np.maximum))


def unit_prices(states: Sequence[RoutingState], speed: CloudSpeed, objective: Objective) -> FloatArray:
    """What one unit of each of ``amounts`` costs in each state, money and priced time together: [states, 6], dollars.

    Raises:
        ValueError: a figure is negative or not finite.
    """
    nonnegative(second_usd=objective.second_usd)
    dollars, seconds = unit_costs(states, speed)
    return dollars + objective.second_usd * seconds


def _dollars(request: N, fresh: N, cached: N, output: N, transfer: N) -> tuple[N, ...]:
    """Of the five prices, what one unit of each amount costs."""
    return request, fresh / MTOK, cached / MTOK, output / MTOK, transfer / GB, transfer / GB


def _seconds(
    rtt_ms: N, up_bps: N, down_bps: N, queue_s: N, speed: CloudSpeed, larger: Callable[[N, float], N]
) -> tuple[N | float, ...]:
    """How long one unit of each amount takes; ``larger`` is the maximum of numbers or of columns."""
    once = speed.round_trips * rtt_ms / 1e3 + queue_s + speed.ttft_s
    return once, 0.0, 0.0, speed.per_token_s, 8.0 / larger(up_bps, DEAD_BPS), 8.0 / larger(down_bps, DEAD_BPS)


def _amounts(work: CloudWork) -> tuple[float, ...]:
    _check(work=work)
    if work.cached_tokens > work.input_tokens:
        raise ValueError(f"work.cached_tokens must be <= work.input_tokens, got {work.cached_tokens}")
    fresh = work.input_tokens - work.cached_tokens
    return (1.0, fresh, work.cached_tokens, work.output_tokens, work.up_bytes, work.down_bytes)


def _inner(units: Sequence[float], paid: Sequence[float]) -> float:
    return float(sum(map(mul, units, paid)))


def _table(columns: Sequence[FloatArray | float]) -> FloatArray:
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _check(**records: LinkState | Prices | CloudSpeed | CloudWork) -> None:
    """Every figure is finite and >= 0; names are only spelt out for the one that is not."""
    for owner, record in records.items():
        values = _VALUES[type(record)](record)
        if not (min(values) >= 0.0 and sum(values) < math.inf):  # a NaN makes the sum one
            nonnegative(**{f"{owner}.{name}": value for name, value in asdict(record).items()})
