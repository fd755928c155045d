"""An offload log as the arrays that ``policies.replay`` evaluates on.

A draft is right when it says the same as the cloud's answer. Where the cloud was asked and gave no usable answer, the
label is taken as missing at random: every propensity is multiplied by the share of calls that were answered. What an
offload would ask of the cloud is estimated from the draft for every request, as the edge node does when it decides:
labelled and other requests are then priced alike. Of the prompt, the share is cached that was in the request's own
call; without one, the mean share of its site's calls. Records that make no sense are left out and counted.
The log holds no budget, so thresholds see none. One pass over segments and Parquet parts alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os.path import isdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.edge_node import DOWN_OVERHEAD_BYTES, UP_OVERHEAD_BYTES
from actors.offload_log import read_log
from orchestrator.screening import numbers, said, screen
from policies.errors import LogError
from policies.fitting import BoolArray, IntArray
from policies.replay import Logged
from policies.score import FloatArray
from policies.toolcalls import parse, same_answer
from policies.types import LinkState, Prices, Reason, Route, RoutingState

UNFINISHED = [Reason.DRAFT_SKIPPED.value, Reason.DRAFT_ABANDONED.value, Reason.CLOUD_ASKED.value]
STEPS_PER_DECADE = 3  # 1, 2, 5, 10: fine enough to tell links apart, coarse enough to fill a bucket
BUCKETS = "RTT and uplink to the nearest of 1, 2, 5, 10, ...; each price list by itself"


@dataclass(frozen=True, slots=True)
class Reading:
    """A log as arrays.

    ``bucket`` [n] indexes ``buckets``, the names of the link states. ``version`` is the edge model of the newest
    record, whose scores a policy must be made for, ``newest`` [n] which records are its; ``versions`` counts how many
    there are. ``answered`` is the share of calls to the cloud with a usable answer, ``billed_usd`` [n] what the log
    says they cost, ``measured`` [n, 6] what they really took (``policies.cost.amounts``; the estimate where there was
    none). ``left_out`` counts records that make no sense, by reason.
    """

    logged: Logged
    bucket: IntArray
    buckets: Sequence[str]
    version: str
    newest: BoolArray
    versions: int
    answered: float
    billed_usd: FloatArray
    measured: FloatArray
    left_out: Mapping[str, int]


def read(root: Path) -> Reading:
    """Read the log under ``root``.

    Raises:
        LogError: there is no such directory, or no record that makes sense or no label in it.
    """
    if not isdir(root):
        raise LogError(f"{root}: there is no such directory. Fix: give the log's, by default var/log")
    table, left_out = screen(read_log(root).combine_chunks(), time.time_ns() // 1000)
    if not len(table) and left_out:
        raise LogError(f"{root}: no record in it can be used. {said(left_out)} Fix: give another log")
    if not len(table):
        raise LogError(f"{root}: no record is in it. Fix: give the directory that holds site=NAME, or serve first")
    return _reading(root, table.combine_chunks(), left_out)


def amounts(table: pa.Table) -> FloatArray:
    """``policies.cost.amounts`` of every record, [n, 6]: as its draft tells them, or its call if that was cut off."""
    estimate = _drafted(table)
    cut = _mask(pc.is_in(table["reason"], pa.array(UNFINISHED)))
    return np.where(cut[:, None], _measured(table, estimate), estimate)


def _reading(root: Path, table: pa.Table, left_out: Mapping[str, int]) -> Reading:
    answered = _answered(root, table)
    propensity = numbers(table, "propensity") * answered
    labelled = _mask(pc.is_valid(table["cloud"])) & (propensity > 0)
    states, state = _states(table)
    names, bucket = _buckets(states)
    score = numbers(table, "score")
    valid = _mask(pc.is_null(table["draft_error"])) & (score != 0)  # 0: invalid, or given up before it was whole
    versions = table["draft_version"].to_pylist()
    logged = Logged(
        score=score,
        valid=valid,
        offloaded=_mask(_either(table, Route.CLOUD, Reason.CLOUD_FAILED)),
        labelled=labelled,
        propensity=propensity,
        edge_right=_agreement(table, labelled & valid),
        amounts=amounts(table),
        state=state,
        states=states,
    )
    version = versions[int(np.argmax(numbers(table, "time_us")))]
    return Reading(
        logged=logged,
        bucket=bucket[state],
        buckets=names,
        version=version,
        newest=np.array(versions) == version,
        versions=len(set(versions)),
        answered=answered,
        billed_usd=numbers(table, "cost_usd"),
        measured=_measured(table, logged.amounts),
        left_out=left_out,
    )


def _answered(root: Path, table: pa.Table) -> float:
    """Share of the calls to the cloud that brought an answer."""
    good = pc.sum(pc.and_(pc.is_valid(table["cloud"]), pc.greater(table["propensity"], 0.0))).as_py()
    if not good:
        raise LogError(
            f"{root}: none of its {len(table)} records holds an answer of the cloud, so nothing can be compared. "
            f"Fix: set site.audit_rate above 0 and serve on, or let some requests go to the cloud"
        )
    failed = pc.sum(pc.and_(pc.is_null(table["cloud"]), pc.is_valid(table["cloud_error"]))).as_py()
    return float(good / (good + failed))


def _agreement(table: pa.Table, comparable: BoolArray) -> FloatArray:
    """Whether a draft says what the cloud says; 0 where they cannot be compared."""
    right = np.zeros(len(table))
    rows = np.flatnonzero(comparable)
    drafts, clouds = (table[name].take(pa.array(rows)).to_pylist() for name in ("draft", "cloud"))
    pairs = zip(drafts, clouds, strict=True)
    right[rows] = [draft == cloud or same_answer(parse(draft), parse(cloud)) for draft, cloud in pairs]
    return right


def _drafted(table: pa.Table) -> FloatArray:
    asked = _lengths(table["messages"]) + _lengths(table["tools"]) + UP_OVERHEAD_BYTES
    told = _lengths(table["draft"]) + DOWN_OVERHEAD_BYTES
    prompt, draft = numbers(table, "prompt_tokens"), numbers(table, "draft_tokens")
    cached = np.rint(prompt * _hit_rate(table))
    return np.stack([np.ones(len(table)), prompt - cached, cached, draft, asked, told], axis=1)


def _hit_rate(table: pa.Table) -> FloatArray:
    """Share of each prompt that is in the provider's cache: in its own call, else in all calls of its site; [n]."""
    cached, prompt = (numbers(table, f"cloud_{kind}_tokens") for kind in ("cached", "input"))
    site = table["site"].combine_chunks().dictionary_encode().indices.to_numpy()
    hits, sent = np.bincount(site, cached), np.bincount(site, prompt)
    mean = np.divide(hits, sent, out=np.zeros(len(sent)), where=sent > 0)
    return np.asarray(np.divide(cached, prompt, out=mean[site], where=prompt > 0), dtype=np.float64)


def _measured(table: pa.Table, estimate: FloatArray) -> FloatArray:
    names = ("cloud_input_tokens", "cloud_cached_tokens", "cloud_output_tokens", "up_bytes", "down_bytes")
    prompt, cached, *others = (numbers(table, name) for name in names)
    found = np.stack([np.zeros(len(table)), prompt - cached, cached, *others], axis=1)
    return np.where(found > 0, found, estimate)


def _states(table: pa.Table) -> tuple[list[RoutingState], IntArray]:
    """The distinct states, and which one each request saw."""
    link, prices = [f"link.{field.name}" for field in fields(LinkState)], [f"prices.{f.name}" for f in fields(Prices)]
    columns = [numbers(table, name) for name in (*link, "queue_s", *prices)]
    rows, index = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    states = [
        RoutingState(LinkState(rtt, up, down, jitter, loss, bool(alive)), Prices(*prices), queue_s)
        for rtt, up, down, jitter, loss, alive, queue_s, *prices in rows.tolist()
    ]
    return states, np.asarray(index, dtype=np.int64).reshape(-1)


def _buckets(states: Sequence[RoutingState]) -> tuple[list[str], IntArray]:
    """Names of the link states that are told apart, and which one each state is."""
    prices = list(dict.fromkeys(state.prices for state in states))
    names = [_name(state, prices) for state in states]
    distinct = list(dict.fromkeys(names))
    place = {name: index for index, name in enumerate(distinct)}
    return distinct, np.array([place[name] for name in names], dtype=np.int64)


def _name(state: RoutingState, prices: Sequence[Prices]) -> str:
    if not state.link.up:
        return "down"
    where = f"{_rounded(state.link.rtt_ms):g} ms, {_rounded(state.link.up_bps / 1e6):g} Mbit/s"
    return where if len(prices) == 1 else f"{where}, price list {prices.index(state.prices) + 1}"


def _rounded(amount: float) -> float:
    """The nearest of 1, 2, 5, 10, ... on a logarithmic scale; 0 stays 0."""
    if not 0 < amount < math.inf:
        return 0.0
    decade, step = divmod(round(STEPS_PER_DECADE * math.log10(amount)), STEPS_PER_DECADE)
    return float((1, 2, 5)[step] * 10.0**decade)


def _either(table: pa.Table, route: str, reason: str) -> pa.Array:
    return pc.or_(pc.equal(table["route"], route), pc.equal(table["reason"], reason))


def _lengths(column: pa.ChunkedArray) -> FloatArray:
    return np.asarray(pc.binary_length(column).to_numpy(), dtype=np.float64)


def _mask(column: pa.ChunkedArray) -> BoolArray:
    return np.asarray(column.to_numpy(), dtype=bool)
