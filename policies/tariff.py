"""What the cloud charges at which hour: a week of prices in a time zone.

A ``Tariff`` is a list of periods by wall clock, which must cover every minute of the week exactly once: an hour without
a price is an error, never a free hour. Where clocks change, the wall clock counts: the hour that is skipped is never
charged, the hour that comes twice is charged alike both times. Prices change on whole minutes, so a caller may keep
one answer until the minute ends. ``build_tariff`` reads plain data; a constant price is ``constant``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from itertools import groupby
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policies.checks import amount
from policies.types import Prices

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
WEEK = len(DAYS) * DAY

_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")


@dataclass(frozen=True, slots=True)
class Period:
    """Hours of the day with one price.

    Args:
        start, end: "HH:MM" by the wall clock, ``end`` excluded. An end at or before the start is on the next day, so
            equal times are 24 hours; "24:00" is midnight.
        prices: what the cloud charges then.
        days: weekdays on which it starts, of ``DAYS``.

    Raises:
        ValueError: a time, a day or a price is not one.
    """

    start: str
    end: str
    prices: Prices
    days: tuple[str, ...] = DAYS

    def __post_init__(self) -> None:
        _minute("start", self.start)
        _minute("end", self.end)
        amount(**{f"prices.{name}": value for name, value in asdict(self.prices).items()})
        if not self.days or not set(self.days) <= set(DAYS) or len(set(self.days)) < len(self.days):
            raise ValueError(f"days must be some of {', '.join(DAYS)}, each once, got {list(self.days)!r}")

    def minutes(self) -> Iterable[int]:
        """The minutes of the week it covers, from Monday 00:00 on."""
        start, end = _minute("start", self.start) % DAY, _minute("end", self.end)
        length = (end - start) % DAY or DAY
        for day in self.days:
            first = DAYS.index(day) * DAY + start
            yield from (minute % WEEK for minute in range(first, first + length))


@dataclass(frozen=True, slots=True)
class Tariff:
    """A week of prices.

    Args:
        zone: IANA name of the time zone whose wall clock the periods follow.
        periods: together they cover each minute of the week once.

    Raises:
        ValueError: the zone is unknown, or hours are not covered or covered twice (they are named).
    """

    zone: str
    periods: tuple[Period, ...]
    _clock: ZoneInfo = field(init=False, repr=False, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _prices: tuple[Prices, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owner = _owners(self.periods)
        starts = [minute for minute in range(WEEK) if minute == 0 or owner[minute] != owner[minute - 1]]
        object.__setattr__(self, "_clock", _zone(self.zone))
        object.__setattr__(self, "_starts", tuple(starts))
        object.__setattr__(self, "_prices", tuple(self.periods[owner[minute]].prices for minute in starts))

    @classmethod
    def constant(cls, prices: Prices) -> Tariff:
        """The same prices at every hour."""
        return cls("UTC", (Period("00:00", "24:00", prices),))

    def prices_at(self, unix_s: float) -> Prices:
        """The prices in force at a Unix time.

        Raises:
            ValueError: not a time of the years 1 to 9999.
        """
        try:
            wall = datetime.fromtimestamp(unix_s, self._clock)
        except (ValueError, OverflowError, OSError) as why:
            raise ValueError(f"unix_s must be seconds since 1970, got {unix_s!r}") from why
        minute = wall.weekday() * DAY + wall.hour * 60 + wall.minute
        return self._prices[bisect_right(self._starts, minute) - 1]


def build_tariff(data: Mapping[str, object]) -> Tariff:
    """A tariff from plain data, as a configuration file holds it.

    ``{"zone": ..., "periods": [{"start": ..., "end": ..., "days": [...], "prices": {...}}, ...]}``; ``days`` may be
    left out (all of them), and so may prices that are 0.

    Raises:
        ValueError: names the key and what to write there.
    """
    _keys("tariff", data, {"zone", "periods"}, {"zone", "periods"})
    zone, periods = data["zone"], data["periods"]
    if not isinstance(zone, str):
        raise ValueError(f"tariff.zone must be an IANA name such as 'Europe/Berlin', got {zone!r}")
    if not isinstance(periods, Sequence) or isinstance(periods, str):
        raise ValueError(f"tariff.periods must be a list of periods, got {periods!r}")
    return Tariff(zone, tuple(_period(f"tariff.periods[{i}]", period) for i, period in enumerate(periods)))


def _period(where: str, data: object) -> Period:
    record = _keys(where, data, {"start", "end", "prices"}, {"start", "end", "prices", "days"})
    days = record.get("days", DAYS)
    if not isinstance(days, Sequence) or isinstance(days, str) or not all(isinstance(day, str) for day in days):
        raise ValueError(f"{where}.days must be a list of {', '.join(DAYS)}, got {days!r}")
    names = {f.name for f in fields(Prices)}
    prices = _keys(f"{where}.prices", record["prices"], set(), names)
    try:
        return Period(record["start"], record["end"], Prices(**_numbers(prices)), tuple(days))  # type: ignore[arg-type]
    except ValueError as why:
        raise ValueError(f"{where}: {why}") from why


def _numbers(prices: Mapping[str, object]) -> dict[str, float]:
    for name, value in prices.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"prices.{name} must be a finite number >= 0, got {value!r}")
        amount(**{f"prices.{name}": value})
    return {name: float(value) for name, value in prices.items()}  # type: ignore[arg-type]


def _keys(where: str, data: object, needed: set[str], known: set[str]) -> Mapping[str, object]:
    """``data`` as a mapping that has all of ``needed`` and nothing outside ``known``."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a mapping with {', '.join(sorted(known))}, got {data!r}")
    for name in sorted(needed - set(data)):
        raise ValueError(f"{where}.{name} is missing")
    for name in sorted(set(data) - known, key=str):
        raise ValueError(f"{where}.{name} is unknown: use {', '.join(sorted(known))}")
    return data


def _minute(name: str, clock: object) -> int:
    """Minutes since midnight, in [0, 1440]."""
    if not isinstance(clock, str) or not _CLOCK.fullmatch(clock):
        quotes = " (YAML takes an unquoted 17:00 for a number: put it in quotes)" if isinstance(clock, int) else ""
        raise ValueError(f"{name} must be a time 'HH:MM' from '00:00' to '24:00', got {clock!r}{quotes}")
    return int(clock[:2]) * 60 + int(clock[3:])


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as why:
        raise ValueError(
            f"zone {name!r} is not a known time zone: use an IANA name such as 'Europe/Berlin' or 'UTC' "
            "(a machine without a time zone database needs the package tzdata)"
        ) from why


def _owners(periods: Sequence[Period]) -> list[int]:
    """Which period covers each minute of the week; shape [WEEK]."""
    owners: list[list[int]] = [[] for _ in range(WEEK)]
    for index, period in enumerate(periods):
        for minute in period.minutes():
            owners[minute].append(index)
    for problem, wrong in (
        ("have no price: add a period", [not own for own in owners]),
        ("have more than one price: shorten a period", [len(own) > 1 for own in owners]),
    ):
        if any(wrong):
            raise ValueError(f"these hours {problem}: {_hours(wrong)}")
    return [own[0] for own in owners]


def _hours(marked: Sequence[bool]) -> str:
    """The marked minutes of the week as text: "mon tue 08:00-09:00, sun 22:00-24:00"."""
    days: dict[tuple[int, int], list[str]] = {}
    for number, day in enumerate(DAYS):
        minutes = range(DAY)
        for is_marked, run in groupby(minutes, lambda minute, n=number: marked[n * DAY + minute]):  # type: ignore[misc]
            span = list(run)
            if is_marked:
                days.setdefault((span[0], span[-1] + 1), []).append(day)
    return ", ".join(
        f"{' '.join(on) if len(on) < len(DAYS) else 'every day'} {_text(first)}-{_text(last)}"
        for (first, last), on in days.items()
    )


def _text(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
