"""One record of the offload log: everything that is known about one request, and its Arrow schema.

``OffloadRecord`` is what the edge node appends and what the learner reads; ``SCHEMA`` is its form in Arrow, one
column a field, ``prices`` and ``link`` as structs. ``to_batch`` and ``from_table`` translate; nothing here does I/O.
A record is *labelled* when the cloud's answer is in it; ``propensity`` was the probability of that, so
1 / propensity is the weight that makes estimates over labelled records unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

import pyarrow as pa

from policies.types import LinkState, Prices, Reason, Route

FREE = Prices()
UNKNOWN = LinkState(rtt_ms=0.0, up_bps=0.0, down_bps=0.0, up=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadRecord:
    """One answered request.

    ``messages``, ``tools`` and ``tool_choice`` are JSON as the client sent it; ``draft``, ``cloud`` and ``answer`` are
    texts in the tool-call syntax. The log overwrites ``site`` and ``seq``. ``time_us`` is Unix time.
    ``request_hash`` identifies the question: equal questions have equal hashes. ``draft_propensity`` was the
    probability that a draft was begun; one that was not begun is empty, one that was abandoned is cut off.
    ``queue_s`` is the wait at the cloud that the decision expected.
    """

    site: str = ""
    seq: int = -1
    time_us: int
    request_id: str
    request_hash: str
    messages: str
    tools: str = "[]"
    tool_choice: str = '"auto"'
    max_tokens: int = 256
    temperature: float = 0.0
    draft: str = ""
    draft_logprobs: Sequence[float] = ()
    draft_error: str | None = None
    draft_version: str = ""
    score: float = 0.0
    threshold: float = 0.0
    policy: str = ""
    prices: Prices = FREE
    link: LinkState = UNKNOWN
    queue_s: float = 0.0
    route: str = Route.EDGE
    reason: str = Reason.SCORE_PASSED
    propensity: float = 0.0
    draft_propensity: float = 1.0
    degraded: bool = False
    cloud: str | None = None
    cloud_error: str | None = None
    cloud_model: str = ""
    answer: str = ""
    prompt_tokens: int = 0
    draft_tokens: int = 0
    cloud_input_tokens: int = 0
    cloud_cached_tokens: int = 0
    cloud_output_tokens: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    draft_ms: float = 0.0
    cloud_ms: float = 0.0
    total_ms: float = 0.0
    cost_usd: float = 0.0

    @property
    def labelled(self) -> bool:
        """Whether the cloud's answer is known."""
        return self.cloud is not None

    @property
    def chars(self) -> int:
        """Characters of the long fields: roughly what the record takes in memory."""
        texts = (self.messages, self.tools, self.draft, self.answer, self.cloud or "")
        return sum(map(len, texts)) + 4 * len(self.draft_logprobs)


_PRICES = pa.struct([pa.field(f.name, pa.float64()) for f in fields(Prices)])
_LINK = pa.struct([pa.field(f.name, pa.bool_() if f.name == "up" else pa.float64()) for f in fields(LinkState)])
_TYPES = {"str": pa.string(), "str | None": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_SPECIAL = {
    "draft_logprobs": pa.list_(pa.float32()),
    "prices": _PRICES,
    "link": _LINK,
}
SCHEMA = pa.schema(
    [
        pa.field(f.name, _SPECIAL.get(f.name) or _TYPES[str(f.type)], nullable="None" in str(f.type))
        for f in fields(OffloadRecord)
    ],
    metadata={"netgpt.log": "2"},
)
"""The Arrow schema of the log; ``netgpt.log`` is its number."""

_PARTS = {
    "prices": attrgetter(*(f.name for f in fields(Prices))),
    "link": attrgetter(*(f.name for f in fields(LinkState))),
}


def to_batch(records: Sequence[OffloadRecord], site: str | None = None, first: int = 0) -> pa.RecordBatch:
    """Columns of ``records``, in ``SCHEMA``.

    Args:
        site: whose they are, with sequence numbers from ``first`` on; None leaves both as the records say.

    Raises:
        pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError: a field does not hold what its type says.
    """
    columns = {field.name: _column(field, records) for field in SCHEMA}
    if site is not None:
        columns["site"] = pa.array([site] * len(records), pa.string())
        columns["seq"] = pa.array(range(first, first + len(records)), pa.int64())
    return pa.record_batch(list(columns.values()), schema=SCHEMA)


def from_table(table: pa.Table) -> list[OffloadRecord]:
    """The records of a table that ``read_log`` returned, in its order."""
    return [
        OffloadRecord(**{**row, "prices": Prices(**row["prices"]), "link": LinkState(**row["link"])})
        for row in table.to_pylist()
    ]


def _column(field: pa.Field, records: Sequence[OffloadRecord]) -> pa.Array:
    values = [getattr(record, field.name) for record in records]
    if field.name not in _PARTS:
        return pa.array(values, field.type)
    names = [part.name for part in field.type]
    return pa.array([dict(zip(names, _PARTS[field.name](value), strict=True)) for value in values], field.type)
