"""A reward model of drafts: Bradley-Terry on hidden states (papers' notes C4: our formulation, not the paper's).

``Head`` is a small network r on pooled hidden states of the edge model, trained in torch (``fit_head``) so that the
better answer of a pair gets the higher reward, -E[log sigmoid(r+ - r-)] + centring * E[r^2], and served in numpy. r is
a raw score: ``policies.calibration`` makes a probability of it. ``preference_pairs`` says which answers are compared.
Pairs within a request alone leave the level of r free from request to request, and since a right draft equals the
cloud's answer they never show one: such an r does not rank the drafts of different requests (AUROC 0.5 on the bundled
tasks, 0.9 with the pairs across requests). Hence right drafts are also paired with wrong drafts of other requests.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from policies.fitting import IntArray
from policies.score import FloatArray
from policies.toolcalls import CLOSE, OPEN, check, parse, render, same_answer
from policies.types import ToolCall

if TYPE_CHECKING:
    from torch import Tensor


PRIOR = 50.0  # precision of the Gaussian prior on standardised weights: 200 pairs must not fit 200 features
CENTRING = 1e-3  # small: the level of r matters to nobody, it only must not drift
ACROSS = 8  # pairs across requests for each draft whose truth is known
STEPS = 200  # of L-BFGS; the linear head converges in about 50
FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Judged:
    """A request's draft with the cloud's answer, both as text; ``weight`` is an importance weight."""

    draft: str
    cloud: str
    tools: Sequence[Mapping[str, Any]]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A text as the answer to the request of that index."""

    request: int
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """``better`` should be rewarded above ``worse``; ``weight`` is how often the pair counts."""

    better: Answer
    worse: Answer
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """r on pooled states of length f: standardise, then one linear layer or a tanh layer before it.

    Args:
        center, scale: [f]; scale > 0.
        layers: (weights [in, out], bias [out]) in order; the last has one output.
    """

    center: FloatArray
    scale: FloatArray
    layers: tuple[tuple[FloatArray, FloatArray], ...]

    def __post_init__(self) -> None:
        sizes = [len(self.center), *(len(bias) for _, bias in self.layers)]
        shapes = [weights.shape for weights, _ in self.layers]
        if shapes != list(pairwise(sizes)) or sizes[-1] != 1 or len(self.scale) != sizes[0]:
            raise ValueError(f"a reward head's layers do not fit: {len(self.scale)} scales, sizes {sizes}, {shapes}")
        arrays = [self.center, self.scale, *(array for layer in self.layers for array in layer)]
        if not all(np.isfinite(array).all() for array in arrays) or not (self.scale > 0).all():
            raise ValueError("a reward head's numbers must be finite and its scales > 0")

    def reward(self, pooled: FloatArray) -> FloatArray:
        """r of many answers, [n, f] -> [n].

        Raises:
            ValueError: the last dimension is not f, or a number is not finite.
        """
        x = np.asarray(pooled, dtype=np.float64)
        if x.shape[-1] != len(self.center) or not np.isfinite(x).all():
            raise ValueError(f"pooled states must be {len(self.center)} finite numbers a row, got shape {x.shape}")
        x = (x - self.center) / self.scale
        for weights, bias in self.layers[:-1]:
            x = np.tanh(x @ weights + bias)
        weights, bias = self.layers[-1]
        return np.asarray((x @ weights + bias)[..., 0], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; numbers as float32."""
        layers = [{"weights": packed(weights), "bias": packed(bias)} for weights, bias in self.layers]
        return {"center": packed(self.center), "scale": packed(self.scale), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote.

        Raises:
            ValueError: not such an object.
        """
        try:
            layers = tuple((unpacked(layer["weights"]), unpacked(layer["bias"])) for layer in data["layers"])
            return cls(unpacked(data["center"]), unpacked(data["scale"]), layers)
        except (ValueError, LookupError, TypeError) as why:
            raise ValueError(f"not a reward head: {why!r}") from why


def pool(states: FloatArray) -> FloatArray:
    """Mean and deviation over an answer's tokens, the end token included: [tokens, d] -> [2 d].

    A wrong token stands out of its answer: on the bundled tasks the deviation tells more than the last state does.
    """
    mean = states.mean(axis=0)
    return np.concatenate([mean, np.sqrt(np.square(states - mean).mean(axis=0))])


def preference_pairs(judged: Sequence[Judged], seed: int = 0) -> list[Pair]:
    """What to compare: the cloud's answer with a draft that differs and with broken versions of itself, and right
    drafts with wrong ones of other requests.

    A draft that means the same as the cloud's answer is never on the losing side. The pairs across requests weigh as
    much together as all others; only drafts that pass the validity gate are in them, because it stops the others.
    """
    rng = Random(seed)
    within = [pair for index, one in enumerate(judged) for pair in _within(index, one, rng)]
    right, wrong = _sides(judged)
    if not right or not wrong:
        return within
    drawn = [(rng.choice(right), rng.choice(wrong)) for _ in range(ACROSS * (len(right) + len(wrong)))]
    mass = sum(judged[i].weight * judged[j].weight for i, j in drawn)
    scale = (sum(pair.weight for pair in within) or 1.0) / (mass or 1.0)
    return within + [
        Pair(Answer(i, judged[i].draft), Answer(j, judged[j].draft), scale * judged[i].weight * judged[j].weight)
        for i, j in drawn
    ]


def broken(calls: Sequence[ToolCall], tools: Sequence[Mapping[str, Any]], rng: Random) -> dict[str, str]:
    """Texts that small models write instead of a valid answer, by kind of mistake; each fails the validity gate.

    ``missing`` a required argument, a value of the wrong ``type``, an ``unknown`` tool, ``truncated`` JSON, and
    ``extra`` text where only JSON may stand. A kind that the tools' schemas allow is left out.
    """
    if not calls:
        return {}
    at = rng.randrange(len(calls))
    call, text = calls[at], render(calls)
    name = rng.choice([f"{call.name}s", call.name.rpartition("_")[2] + "_" + call.name, "do_" + call.name])
    others = [ToolCall(name, call.arguments)]
    kinds = {"unknown": render([*calls[:at], *others, *calls[at + 1 :]])}
    if call.arguments:
        key = rng.choice(sorted(call.arguments))
        fewer = {k: v for k, v in call.arguments.items() if k != key}
        retyped = {**call.arguments, key: _retyped(call.arguments[key])}
        kinds["missing"] = render([*calls[:at], ToolCall(call.name, fewer), *calls[at + 1 :]])
        kinds["type"] = render([*calls[:at], ToolCall(call.name, retyped), *calls[at + 1 :]])
    kinds["truncated"] = text[: rng.randrange(text.rindex(OPEN) + len(OPEN), len(text) - len(CLOSE))]
    kinds["extra"] = text.replace(OPEN, OPEN + rng.choice(["Sure! ", "Here is the call: ", "json\n"]), 1)
    return {kind: wrong for kind, wrong in kinds.items() if check(parse(wrong), tools) is not None}


def preference_loss(better: Tensor, worse: Tensor, weights: Tensor, centring: float = CENTRING) -> Tensor:
    """-log sigmoid(r+ - r-) + centring * (r+^2 + r-^2) / 2, weighted mean over pairs: [n] each -> []."""
    from torch.nn.functional import logsigmoid  # noqa: PLC0415  (training only)

    value = centring / 2 * (better**2 + worse**2) - logsigmoid(better - worse)
    result: Tensor = (weights * value).sum() / weights.sum()
    return result


def fit_head(
    pooled: FloatArray, better: IntArray, worse: IntArray, weights: FloatArray, hidden: int = 0, seed: int = 0
) -> Head:
    """Train r on answers [answers, f] and pairs of their rows [n]; ``hidden`` units, 0 for a linear head.

    Raises:
        ValueError: nothing to compare, or a number is not finite or out of range.
    """
    x, w = np.asarray(pooled, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not len(better) == len(worse) == len(w) or len(w) == 0:
        raise ValueError(f"need as many better as worse as weights and at least one: {len(better)}, {len(worse)}")
    if not np.isfinite(x).all() or not (np.isfinite(w) & (w >= 0)).all() or w.sum() <= 0:
        raise ValueError("pooled and weights must be finite, weights >= 0 and not all 0")
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > FLAT, scale, 1.0)
    layers = _train((x - center) / scale, better, worse, w, hidden, seed)
    return Head(center, scale, layers)


def packed(array: FloatArray) -> dict[str, Any]:
    """An array as a JSON value: its shape, and little-endian float32 in base64 (a wide head is long as text)."""
    return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def unpacked(data: Mapping[str, Any]) -> FloatArray:
    """Read what ``packed`` made; ValueError, KeyError or TypeError where it is something else."""
    flat = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4")
    return flat.reshape(data["shape"]).astype(np.float64)


def _train(
    x: FloatArray, better: IntArray, worse: IntArray, w: FloatArray, hidden: int, seed: int
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Full-batch L-BFGS in float64: the same data give the same head."""
    import torch  # noqa: PLC0415  (training only)

    rng = np.random.default_rng(seed)
    sizes = [x.shape[1], *([hidden] if hidden else []), 1]
    # A linear head starts at 0, where r says nothing; a tanh layer needs its units to differ.
    starts = [rng.normal(0.0, hidden and n**-0.5, (n, m)) for n, m in pairwise(sizes)]
    matrices = [torch.tensor(start, requires_grad=True) for start in starts]
    biases = [torch.zeros(m, dtype=torch.float64, requires_grad=True) for m in sizes[1:]]
    rows, counts, first, second = torch.tensor(x), torch.tensor(w), torch.tensor(better), torch.tensor(worse)

    def loss() -> Tensor:
        r = rows
        for matrix, bias in zip(matrices[:-1], biases[:-1], strict=True):
            r = torch.tanh(r @ matrix + bias)
        r = (r @ matrices[-1] + biases[-1])[:, 0]
        penalty = sum((matrix**2).sum() for matrix in matrices) * PRIOR / (2 * len(x))
        return preference_loss(r[first], r[second], counts) + penalty

    optimizer = torch.optim.LBFGS([*matrices, *biases], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return tuple((m.detach().numpy(), b.detach().numpy()) for m, b in zip(matrices, biases, strict=True))


def _within(index: int, one: Judged, rng: Random) -> Iterator[Pair]:
    cloud, draft = parse(one.cloud), parse(one.draft)
    if check(cloud, one.tools) is not None:
        return  # the cloud may be wrong too; what the gate would stop teaches nothing
    better = Answer(index, one.cloud)
    if not same_answer(cloud, draft):
        yield Pair(better, Answer(index, one.draft), one.weight)
    mistakes = list(broken(cloud.calls, one.tools, rng).values())
    if mistakes:
        yield Pair(better, Answer(index, rng.choice(mistakes)), one.weight)


def _sides(judged: Sequence[Judged]) -> tuple[list[int], list[int]]:
    """Indices of the valid drafts that are right and of those that are wrong."""
    valid = [i for i, one in enumerate(judged) if check(parse(one.draft), one.tools) is None]
    right = [i for i in valid if same_answer(parse(judged[i].draft), parse(judged[i].cloud))]
    return right, sorted(set(valid) - set(right))


def _retyped(value: Any) -> Any:
    """The mistakes of type that models make: a quoted number, a lonely value in a list, a list's first item alone."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, str):
        return [value]
    return str(value)
