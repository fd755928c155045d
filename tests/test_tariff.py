"""Price schedules: no hour without a price, none with two, and the wall clock of the zone decides."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.tariff import DAYS, Period, Tariff, build_tariff
from policies.types import Prices

DAY, NIGHT = Prices(request_usd=0.02), Prices(request_usd=0.01)
BERLIN = Tariff("Europe/Berlin", (Period("08:00", "20:00", DAY), Period("20:00", "08:00", NIGHT)))
clocks = st.integers(0, 24 * 60 - 1).map(lambda minute: f"{minute // 60:02d}:{minute % 60:02d}")


def unix(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def plain(**changes: Any) -> dict[str, Any]:
    """A good tariff as a file would hold it; ``changes`` go into its first period."""
    first = {"start": "06:00", "end": "22:00", "prices": {"request_usd": 0.02}, **changes}
    return {"zone": "UTC", "periods": [first, {"start": "22:00", "end": "06:00", "prices": {}}]}


@pytest.mark.parametrize(
    ("at", "price"),
    [
        ("2026-03-02T07:59:59", NIGHT),
        ("2026-03-02T08:00", DAY),
        ("2026-03-02T19:59:59", DAY),
        ("2026-03-02T20:00", NIGHT),
        ("2026-03-03T00:00", NIGHT),
    ],
)
def test_a_period_begins_on_its_minute_and_ends_before_its_end(at: str, price: Prices) -> None:
    assert BERLIN.prices_at(unix(at)) == price


def test_a_weekend_night_that_wraps_belongs_to_the_day_it_began_on() -> None:
    weekend = Period("22:00", "06:00", NIGHT, ("sun",))
    rest = (
        Period("06:00", "22:00", DAY),
        Period("22:00", "06:00", DAY, tuple(day for day in DAYS if day != "sun")),
    )
    tariff = Tariff("UTC", (weekend, *rest))
    assert tariff.prices_at(unix("2026-03-02T05:59", "UTC")) == NIGHT  # a Monday morning
    assert tariff.prices_at(unix("2026-03-03T05:59", "UTC")) == DAY
    assert tariff.prices_at(unix("2026-03-01T05:59", "UTC")) == DAY


def test_where_clocks_change_the_wall_clock_counts() -> None:
    night = Tariff("Europe/Berlin", (Period("02:00", "03:00", NIGHT), Period("03:00", "02:00", DAY)))
    spring = unix("2026-03-29T01:59:59") + 1  # 02:00 does not happen: it is 03:00 at once
    assert night.prices_at(spring - 1) == DAY and night.prices_at(spring) == DAY
    for fold in (0, 1):  # 02:30 happens twice
        assert night.prices_at(unix("2026-10-25T02:30", fold=fold)) == NIGHT
    autumn = unix("2026-10-25T02:00", fold=0)
    assert [night.prices_at(autumn + hours * 3600) for hours in (-1, 0, 1, 2)] == [DAY, NIGHT, NIGHT, DAY]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 4e9), st.sampled_from(["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"]))
def test_the_price_is_the_one_of_the_local_hour(at: float, zone: str) -> None:
    tariff = Tariff(zone, tuple(Period(f"{h:02d}:00", f"{h + 1:02d}:00", Prices(float(h))) for h in range(24)))
    assert tariff.prices_at(at).request_usd == datetime.fromtimestamp(at, ZoneInfo(zone)).hour


@settings(deadline=None)
@given(clocks, clocks, st.floats(0, 4e9))
def test_any_two_times_split_the_day_without_a_gap(one: str, other: str, at: float) -> None:
    if one == other:
        tariff = Tariff("UTC", (Period(one, other, DAY),))
    else:
        tariff = Tariff("UTC", (Period(one, other, DAY), Period(other, one, NIGHT)))
    clock = datetime.fromtimestamp(at, UTC).strftime("%H:%M")
    inside = one <= clock < other if one < other else clock >= one or clock < other
    assert tariff.prices_at(at) == (DAY if inside or one == other else NIGHT)


@settings(deadline=None)
@given(st.floats(-6e10, 2e11))
def test_a_constant_price_is_a_tariff(at: float) -> None:
    assert Tariff.constant(DAY).prices_at(at) == DAY


def test_hours_without_a_price_are_named() -> None:
    with pytest.raises(ValueError, match=r"no price.*every day 06:30-07:00"):
        Tariff("UTC", (Period("07:00", "06:30", DAY),))
    with pytest.raises(ValueError, match=r"no price.*: sat sun 00:00-24:00$"):
        Tariff("UTC", (Period("00:00", "24:00", DAY, DAYS[:5]),))
    with pytest.raises(ValueError, match=r"no price.*every day 00:00-24:00"):
        Tariff("UTC", ())


def test_hours_with_two_prices_are_named() -> None:
    late = Period("23:00", "01:00", NIGHT, ("sun",))
    with pytest.raises(ValueError, match=r"more than one price.*: mon 00:00-01:00, sun 23:00-24:00$"):
        Tariff("UTC", (Period("00:00", "24:00", DAY), late))
    with pytest.raises(ValueError, match="more than one price"):  # the same price twice is still a mistake
        Tariff("UTC", (Period("00:00", "24:00", DAY), Period("08:00", "09:00", DAY)))


@pytest.mark.parametrize(
    "zone", ["Europe/Atlantis", "", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "CET1"]
)
def test_an_unknown_zone_is_named_with_a_fix(zone: str) -> None:
    with pytest.raises(ValueError, match="IANA name such as 'Europe/Berlin'") as caught:
        Tariff(zone, BERLIN.periods)
    assert repr(zone) in str(caught.value)


@pytest.mark.parametrize(
    "clock", ["8:00", "24:01", "25:00", "08:60", "", "08:00\n", "\u0660\u0668:\u0660\u0660", "noon", " 08:00"]
)
def test_what_is_no_time_of_day_is_refused(clock: str) -> None:
    with pytest.raises(ValueError, match="start must be a time"):
        Period(clock, "20:00", DAY)
    with pytest.raises(ValueError, match="end must be a time"):
        Period("07:00", clock, DAY)


@pytest.mark.parametrize("days", [(), ("mon", "mon"), ("monday",), ("Mon",)])
def test_wrong_weekdays_are_refused(days: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="days must be some of mon"):
        Period("08:00", "20:00", DAY, days)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e18])
def test_a_time_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="unix_s"):
        BERLIN.prices_at(wrong)


def test_a_tariff_is_built_from_plain_data_and_survives_pickling() -> None:
    tariff = build_tariff(plain(days=list(DAYS)))
    assert tariff == build_tariff(plain()) == pickle.loads(pickle.dumps(tariff))
    assert tariff.prices_at(unix("2026-03-02T06:00", "UTC")) == Prices(request_usd=0.02)
    assert pickle.loads(pickle.dumps(tariff)).prices_at(0.0) == Prices()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"zone": "UTC"}, "tariff.periods is missing"),
        ({"zone": 1, "periods": []}, "tariff.zone must be an IANA name"),
        ({"zone": "UTC", "periods": "all"}, "tariff.periods must be a list"),
        ({"zone": "UTC", "periods": [None]}, r"tariff.periods\[0\] must be a mapping"),
        ({**plain(), "prices": {}}, "tariff.prices is unknown: use periods, zone"),
        (plain(end=1320), r"tariff.periods\[0\]: end must be a time.*1320.*quotes"),
        (plain(begin="06:00"), r"tariff.periods\[0\].begin is unknown"),
        (plain(days="mon"), r"tariff.periods\[0\].days must be a list"),
        (plain(days=[1]), r"tariff.periods\[0\].days must be a list"),
        (plain(days=["mo"]), r"tariff.periods\[0\]: days must be some of"),
        (plain(prices=0.02), r"tariff.periods\[0\].prices must be a mapping"),
        (plain(prices={"dollars": 1}), r"tariff.periods\[0\].prices.dollars is unknown: use cached_usd_per_mtok"),
        (plain(prices={"request_usd": -1}), r"tariff.periods\[0\]: prices.request_usd must be a finite number >= 0"),
        (plain(prices={"request_usd": "1"}), r"tariff.periods\[0\]: prices.request_usd must be a finite number >= 0"),
        (plain(prices={"request_usd": True}), r"tariff.periods\[0\]: prices.request_usd must be a finite number >= 0"),
        (plain(prices={"request_usd": math.nan}), r"tariff.periods\[0\]: prices.request_usd must be a finite number"),
    ],
)
def test_a_mistake_in_plain_data_is_named_by_its_key(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tariff(data)
