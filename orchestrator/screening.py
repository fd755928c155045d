"""Records of an offload log that cannot be: no text, time, link, price list or request is like that.

A single one among thousands would decide every mean, or make a NaN of it. So each is left out before anything is
computed, and counted by the figure that gave it away; whoever reads the log says so (``said``). Scores of 0 and figures
of a link that is down are sensible: they say that there was nothing to measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.log_record import SCHEMA
from policies.checks import MOST
from policies.fitting import BoolArray
from policies.funcdyn import GREATEST
from policies.score import FloatArray
from policies.types import LinkState, Prices

CLOCKS_APART_US = 86_400_000_000  # a day: sites' clocks and time zones differ, and nothing else comes from the future
LEAST_PROPENSITY = 1e-9  # no audit rate is lower, and what is divided by it stays within the range of a float

_LINK = tuple(f"link.{field.name}" for field in fields(LinkState) if field.name != "up")
_PRICES = tuple(f"prices.{field.name}" for field in fields(Prices))
_SHARES = ("score", "propensity")
_COUNTS = ("prompt_tokens", "draft_tokens", "cloud_input_tokens", "cloud_output_tokens", "up_bytes", "down_bytes")
_GREATEST = {
    **{name: GREATEST[name] for name in (*_LINK, *_PRICES, "queue_s")},
    **dict.fromkeys(_SHARES, 1.0),
    **dict.fromkeys((*_COUNTS, "cost_usd"), MOST),
}


def screen(table: pa.Table, now_us: int) -> tuple[pa.Table, Mapping[str, int]]:
    """The records of ``table`` that make sense at Unix time ``now_us``, and how many do not, by what is wrong."""
    table, left_out = _written(table)
    whole = np.ones(len(table), dtype=bool)
    for name, least, values, most in _ranges(table, now_us):
        bad = whole & ~((values >= least) & (values <= most))
        if bad.any():
            row = int(np.argmax(bad))
            low, high = (np.broadcast_to(end, len(table))[row] for end in (least, most))
            left_out[f"{name} must lie in [{low:g}, {high:g}], got {values[row]:g}"] = int(bad.sum())
            whole &= ~bad
    return (table.filter(pa.array(whole)), left_out) if left_out else (table, left_out)


def said(left_out: Mapping[str, int]) -> str:
    """What was left out, in words; there must be something."""
    reasons = "; ".join(f"{why} ({count})" for why, count in left_out.items())
    return f"Records that make no sense are left out, {sum(left_out.values())} in all: {reasons}."


def numbers(table: pa.Table, name: str) -> FloatArray:
    """The column ``name``, or its field as in ``link.rtt_ms``: [n]."""
    owner, _, field = name.partition(".")
    column = pc.struct_field(table[owner], field) if field else table[owner]
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _written(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Without records that this program cannot have written: a field is missing, or a text is not UTF-8."""
    left_out: dict[str, int] = {}
    for field in SCHEMA:
        column = table[field.name]
        checks = {"is missing": _missing(field, column), "is not UTF-8": _undecodable(field, column)}
        bad = checks["is missing"] | checks["is not UTF-8"]
        left_out |= {f"{field.name} {why}": int(mask.sum()) for why, mask in checks.items() if mask.any()}
        table = table.filter(pa.array(~bad)) if bad.any() else table
    return table, left_out


def _missing(field: pa.Field, column: pa.ChunkedArray) -> BoolArray:
    if field.nullable or not column.null_count:
        return np.zeros(len(column), dtype=bool)
    return np.asarray(pc.is_null(column).to_numpy(), dtype=bool)


def _undecodable(field: pa.Field, column: pa.ChunkedArray) -> BoolArray:
    """Which texts cannot be read; Arrow checks them only when asked, and Python fails at the first."""
    if not pa.types.is_string(field.type) or _valid(column):
        return np.zeros(len(column), dtype=bool)
    texts = column.cast(pa.binary()).to_pylist()
    return np.array([text is not None and not _is_utf8(text) for text in texts], dtype=bool)


def _valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ranges(table: pa.Table, now_us: int) -> Iterator[tuple[str, FloatArray | float, FloatArray, FloatArray | float]]:
    """Figures by name, [n], between the least and the greatest that they may be."""
    yield "time_us", 1.0, numbers(table, "time_us"), float(now_us + CLOCKS_APART_US)
    for name, most in _GREATEST.items():
        yield name, 0.0, numbers(table, name), most
    propensity, cached = numbers(table, "propensity"), "cloud_cached_tokens"
    labelled = np.asarray(pc.is_valid(table["cloud"]).to_numpy(), dtype=bool) & (propensity > 0)
    yield "propensity", np.where(labelled, LEAST_PROPENSITY, 0.0), propensity, 1.0
    yield cached, 0.0, numbers(table, cached), numbers(table, "cloud_input_tokens")
