"""What can stand in an argument, and how people say it.

A ``Spoken`` pairs the JSON value with the words for it. ``hard`` marks words that must be converted (units) or
reckoned (relative times) before they become the value. Every sampler is a pure function of the random source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

SITES = (
    "airport", "arena", "bridge", "campus", "castle", "central", "depot", "garden", "harbor", "hill", "library",
    "market", "mill", "museum", "north", "park", "plaza", "south", "stadium", "station", "tower", "valley",
)  # fmt: skip
OPEN_SITES = (
    "Bramford", "Quillon", "Tesk", "Ovarra", "Wexley", "Junipero", "Dulmen", "Fjordby", "Kyzyl", "Zennor",
    "lighthouse", "foundry", "orchard", "viaduct", "quarry", "brewery", "planetarium", "vineyard",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spoken:
    """A value and the words for it."""

    value: Any
    words: str
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """What a request is set in.

    ``now`` is the time of day in minutes; ``hard`` asks for words to convert or reckon; ``held`` for wordings of
    the test splits; ``open_vocabulary`` for names outside the lists.
    """

    now: int
    hard: bool
    held: bool = False
    open_vocabulary: bool = False


Sampler = Callable[[Random, Scene], Spoken]


def clock(minutes: int) -> str:
    """Minutes since midnight as HH:MM, wrapping at 24 hours."""
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def identifier(prefix: str, digits: int) -> Sampler:
    """Ids such as ``s-204``; an unseen prefix in the open vocabulary."""

    def sample(rng: Random, scene: Scene) -> Spoken:
        head = rng.choice("hjqvwyz") + rng.choice("bfgtx") if scene.open_vocabulary else prefix
        text = f"{head}-{''.join(rng.choice('0123456789') for _ in range(digits))}"
        return Spoken(text, text)

    return sample


def site(rng: Random, scene: Scene) -> Spoken:
    """A named location."""
    name = rng.choice(OPEN_SITES if scene.open_vocabulary else SITES)
    return Spoken(name, name)


def choice(words: Mapping[Any, Sequence[str]]) -> Sampler:
    """A value of an enum in one of its wordings; the first wording is the plain one."""
    values = tuple(words)

    def sample(rng: Random, _scene: Scene) -> Spoken:
        value = rng.choice(values)
        return Spoken(value, rng.choice(words[value]))

    return sample


def whole(low: int, high: int, step: int = 1) -> Sampler:
    """A whole number in [low, high]."""

    def sample(rng: Random, _scene: Scene) -> Spoken:
        value = rng.randrange(low, high + 1, step)
        return Spoken(value, str(value))

    return sample


def decimal(low: float, high: float, digits: int) -> Sampler:
    """A decimal number with ``digits`` places, trailing zeros dropped."""
    scale = 10**digits

    def sample(rng: Random, _scene: Scene) -> Spoken:
        value = rng.randint(round(low * scale), round(high * scale)) / scale
        return Spoken(_integral(value), _plain(value))

    return sample


def megabits(rng: Random, scene: Scene) -> Spoken:
    """A rate in Mbit/s; said in Gbit/s when hard."""
    if scene.hard and rng.random() < 0.6:
        tenths = rng.randint(2, 99)
        return Spoken(tenths * 100, f"{_plain(tenths / 10)} Gbit/s", hard=True)
    value = rng.randrange(10, 995, 5)
    return Spoken(value, f"{value} Mbit/s")


def duration(unit: str, low: int, high: int, step: int) -> Sampler:
    """A duration in ``unit`` ("seconds" or "minutes"); said in the next larger unit when hard."""
    larger = {"seconds": "minute", "minutes": "hour"}[unit]

    def sample(rng: Random, scene: Scene) -> Spoken:
        if scene.hard and rng.random() < 0.6:
            count = rng.randint(1, 12)
            return Spoken(count * 60, f"{count} {larger}{'s' if count > 1 else ''}", hard=True)
        value = rng.randrange(low, high + 1, step)
        return Spoken(value, f"{value} {unit}")

    return sample


def moment(rng: Random, scene: Scene) -> Spoken:
    """A time of day HH:MM; said relative to now when hard."""
    if scene.hard and rng.random() < 0.6:
        ahead, words = rng.choice(_AHEAD)
        return Spoken(clock(scene.now + ahead), words, hard=True)
    text = clock(rng.randrange(0, 1440, 5))
    return Spoken(text, f"at {text}")


_AHEAD = (
    (10, "in 10 minutes"),
    (20, "in 20 minutes"),
    (30, "in half an hour"),
    (60, "in an hour"),
    (120, "in 2 hours"),
    (180, "in 3 hours"),
)


def _integral(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _plain(value: float) -> str:
    return str(_integral(value))
