"""p(x) = P(the draft will be right), from the prompt alone: is a draft worth making?

Logistic regression with a ridge on hashed word and character n-grams, the prompt's length and the number of tools,
then calibrated on scores of prompts it was not fitted on. Built for the time before drafting: a few array operations
over the bytes, where all n-grams come from one prefix sum of a polynomial hash modulo 2^64. Letters are
read without case and every digit as 0: a prompt is hard for what it asks, not for the number in it. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from policies.calibration import EDGE
from policies.fitting import BoolArray, IntArray
from policies.json_fields import LARGEST, loads, numbers
from policies.preference import packed, unpacked
from policies.score import FloatArray
from policies.score_maps import Platt, map_from_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Hashes = npt.NDArray[np.uint64]

BITS = 14
LONGEST = 8192  # bytes that are read; of a longer prompt its end, where the question is
ORDERS = (3, 5)  # of the character n-grams
RIDGE = 3.0  # chosen by cross-validation on 1,319 prompts; 1 to 5 differ little
FOLDS = 5
DENSE = ("log_length", "log_tools")
HASHING = f"1: words 1-2, characters {ORDERS}, {BITS} bits"  # changes with every change of what a bucket means

_BASE, _MIX, _SHIFT = 0x9E3779B97F4A7C15, np.uint64(0xD6E8FEB86659FD93), np.uint64(64 - BITS)
_PAIR, *_SALTS = np.array([0x1F83D9ABFB41BD6B * (k + 1) % (1 << 64) for k in range(len(ORDERS) + 1)], dtype=np.uint64)
_FOLD = bytes(range(256)).lower().translate(bytes.maketrans(b"123456789\t\n\r", b"000000000   "))
_WORD = bytes(int(chr(byte).isalnum() or byte >= 128) for byte in range(256))


def _powers(base: int) -> Hashes:
    values = [1]
    while len(values) <= LONGEST:
        values.append(values[-1] * base % (1 << 64))
    return np.array(values, dtype=np.uint64)


_UP, _DOWN = _powers(_BASE), _powers(pow(_BASE, -1, 1 << 64))


def buckets(text: str) -> IntArray:
    """The hashed n-grams of ``text`` with repetitions, each in [0, 2^BITS): words, pairs of words, characters."""
    raw = text.encode("utf-8", "replace")[-LONGEST:]
    n = len(raw)
    prefix = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(np.frombuffer(raw.translate(_FOLD), dtype=np.uint8) * _UP[:n], out=prefix[1:])
    inside = np.frombuffer(b"\0" + raw.translate(_WORD) + b"\0", dtype=np.uint8)
    edges = (inside[1:] != inside[:-1]).nonzero()[0]
    first, last = edges[::2], edges[1::2]
    words = (prefix[last] - prefix[first]) * _DOWN[first]
    pairs = words[:-1] * _PAIR + words[1:]
    grams = [
        (prefix[k:] - prefix[:-k]) * _DOWN[: n + 1 - k] + salt for k, salt in zip(ORDERS, _SALTS, strict=True) if k <= n
    ]
    hashes = np.concatenate([words, pairs, *grams])
    hashes *= _MIX
    hashes >>= _SHIFT
    return np.asarray(hashes.view(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class PromptScore:
    """p(x) of one version of the weights.

    Args:
        table: the weight of each bucket, [2^BITS].
        dense: the weights of ``DENSE``.
        map: from the weighted sum to a probability; its slope is >= 0.
    """

    table: FloatArray
    dense: tuple[float, float]
    map: Platt

    def __post_init__(self) -> None:
        if self.table.shape != (1 << BITS,):
            raise ValueError(f"a prompt score needs {1 << BITS} weights, got shape {self.table.shape}")
        if not (np.abs([*self.table, *self.dense]) <= LARGEST).all():
            raise ValueError(f"a prompt score's weights must be numbers of at most {LARGEST:g} in size")

    @classmethod
    def fit(
        cls,
        prompts: Sequence[str],
        tools: Sequence[int],
        right: BoolArray | FloatArray,
        weights: FloatArray | None = None,
        ridge: float = RIDGE,
    ) -> Self:
        """Fit on prompts whose drafts were judged; ``right`` may be a probability, ``weights`` are importance weights,
        ``tools`` counts of tools.

        Fitted once on all, and ``FOLDS`` times without a fold, whose scores then calibrate: scores of prompts that the
        weights have seen would look too sure.

        Raises:
            ValueError: rows disagree, nothing was given, or a number is out of range.
        """
        y = np.asarray(right, dtype=np.float64)
        w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
        _check(prompts, tools, y, w)
        w = w / w.mean()
        x = _matrix(prompts, tools)
        fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
        raw = np.zeros(len(y))
        for held in range(min(FOLDS, len(y))):
            seen = fold != held
            raw[~seen] = (
                x[~seen] @ ridge_logistic(x[seen], y[seen], w[seen], ridge)[1:]
            )  # the map has its own intercept
        theta = ridge_logistic(x, y, w, ridge)[1:]
        return cls(theta[: 1 << BITS], (float(theta[-2]), float(theta[-1])), Platt.fit(raw, y, w))

    def predict(self, prompt: str, tools: int) -> float:
        """P(the draft will be right), inside (0, 1), for a prompt that comes with ``tools`` tools."""
        found = buckets(prompt)
        total = float(self.table.take(found).sum()) / math.sqrt(len(found) or 1)
        length, count = _dense(len(prompt), tools)
        u = self.map.intercept + self.map.slope * (total + self.dense[0] * length + self.dense[1] * count)
        return min(max(0.5 + 0.5 * math.tanh(0.5 * u), EDGE), 1.0 - EDGE)

    def to_json(self) -> str:
        """One JSON object that names its hashing, so an old file cannot be misread; weights as float32."""
        data = {"hashing": HASHING, "table": packed(self.table), "dense": self.dense, "map": self.map.to_json()}
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: not such a file, or fitted on other features.
        """
        try:
            data = loads(text)
            length, count = numbers("dense", data["dense"])
            hashing, table, fitted = data["hashing"], unpacked(data["table"]), map_from_json(data["map"])
        except (ValueError, LookupError, TypeError, OverflowError) as why:
            raise ValueError(f"not a prompt score: {why}") from why
        if hashing != HASHING:
            raise ValueError(f"this prompt score was fitted on {hashing!r}, the program computes {HASHING!r}")
        if not isinstance(fitted, Platt):
            raise ValueError("not a prompt score: its map is not platt")
        return cls(table, (length, count), fitted)


def ridge_logistic(x: csr_array, y: FloatArray, w: FloatArray, ridge: float) -> FloatArray:
    """Most probable [intercept, weights] under a Gaussian prior of precision ``ridge`` on the weights.

    Args:
        x: rows of features, [n, d].
        y: labels in [0, 1], [n]; with one value only there is nothing to separate and all is 0.
        w: how often each row counts, [n].
    """
    from scipy.optimize import minimize  # noqa: PLC0415

    if not len(y) or y.min() == y.max():
        return np.zeros(x.shape[1] + 1)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        u = theta[0] + x @ theta[1:]
        error = w * (0.5 * (1.0 + np.tanh(0.5 * u)) - y)
        value = (w * (np.logaddexp(0.0, u) - y * u)).sum() + ridge / 2 * (theta[1:] ** 2).sum()
        return float(value), np.concatenate([[error.sum()], x.T @ error + ridge * theta[1:]])

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)


def _dense(length: int, tools: int) -> tuple[float, float]:
    """About as large as one hashed row, whose norm is about 1."""
    return 0.7 * math.log1p(length), 0.7 * math.log1p(tools)


def _matrix(prompts: Sequence[str], tools: Sequence[int]) -> csr_array:
    """[n, 2^BITS + 2]: counts of buckets over the root of their number, then ``DENSE``."""
    from scipy.sparse import csr_array  # noqa: PLC0415  (fitting is rare; serving needs no scipy)

    found = [buckets(prompt) for prompt in prompts]
    extra = np.array([1 << BITS, (1 << BITS) + 1])
    columns = np.concatenate([part for one in found for part in (one, extra)])
    values = np.concatenate(
        [
            np.r_[np.full(len(one), 1.0 / math.sqrt(len(one) or 1)), _dense(len(prompt), count)]
            for one, prompt, count in zip(found, prompts, tools, strict=True)
        ]
    )
    ends = np.cumsum([0, *(len(one) + 2 for one in found)])
    matrix = csr_array((values, columns, ends), shape=(len(prompts), (1 << BITS) + 2))
    matrix.sum_duplicates()
    return matrix


def _check(prompts: Sequence[str], tools: Sequence[int], y: FloatArray, w: FloatArray) -> None:
    if not len(prompts) == len(tools) == len(y) == len(w) or len(y) == 0:
        raise ValueError(
            f"need one of each and at least one: {len(prompts)} prompts, {len(tools)} tools, {len(y)} labels, {len(w)}"
        )
    if min(tools) < 0 or not ((y >= 0) & (y <= 1)).all():
        raise ValueError("tools must be counts >= 0 and labels must lie in [0, 1]")
    if not (np.isfinite(w) & (w >= 0)).all() or w.sum() <= 0:
        raise ValueError("weights must be finite, >= 0 and not all 0")
