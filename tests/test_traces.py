"""Capacity curves: constant rates, Mahimahi files, our own synthetic traces."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.traces import DATA, PACKET_BYTES, SYNTHETIC, ConstantRate, Trace, load, resolve, synthesise, text, write
from policies.errors import BadConfig

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "link_traces"
times = st.lists(st.integers(0, 5000), min_size=1, max_size=50).map(sorted).filter(lambda ts: ts[-1] > 0)


@pytest.mark.parametrize("name", sorted(SYNTHETIC))
def test_a_shipped_trace_is_what_its_recipe_makes(name: str) -> None:
    assert (DATA / name).read_text() == text(synthesise(name))
    assert resolve(name) == synthesise(name)


def test_nothing_else_is_shipped_and_it_is_small() -> None:
    assert {path.name for path in DATA.iterdir()} == set(SYNTHETIC)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 300_000


@pytest.mark.parametrize("name", sorted(SYNTHETIC))
def test_a_synthetic_trace_keeps_to_its_rate_and_fades(name: str) -> None:
    recipe, trace = SYNTHETIC[name], synthesise(name)
    assert trace.period_s == recipe.seconds
    assert 0.4 < trace.mean_bps / recipe.median_bps < 2
    halves = [trace.arrived(s / 2 + 0.5) - trace.arrived(s / 2) for s in range(2 * recipe.seconds - 1)]
    assert min(halves) * 16 < 0.5 * trace.mean_bps < trace.peak_bps


def test_written_traces_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    assert load(tmp_path / "rural.up").opportunities_ms == synthesise("rural.up").opportunities_ms


@given(times, st.integers(1, 300))
def test_the_moment_is_the_first_by_which_the_bytes_could_have_crossed(ts: list[int], packets: int) -> None:
    trace = Trace("t", tuple(ts))
    moment = trace.moment(packets * PACKET_BYTES)
    assert trace.arrived(moment + 1e-6) >= packets * PACKET_BYTES
    assert moment == 0 or trace.arrived(moment - 1e-6) < packets * PACKET_BYTES


@given(times, st.floats(0, 100), st.floats(0, 100))
def test_a_trace_never_takes_capacity_back(ts: list[int], one: float, other: float) -> None:
    trace = Trace("t", tuple(ts))
    assert trace.arrived(min(one, other)) <= trace.arrived(max(one, other))


@given(times)
def test_a_trace_repeats_at_its_end(ts: list[int]) -> None:
    trace, size = Trace("t", tuple(ts)), len(ts) * PACKET_BYTES
    assert trace.moment(2 * size) == pytest.approx(2 * trace.period_s)
    assert trace.moment(size + 1) == pytest.approx(trace.period_s + ts[0] / 1000)


def test_part_of_a_packet_takes_a_whole_opportunity_and_leaves_its_rest() -> None:
    trace = Trace("t", (10, 30))
    assert [trace.moment(size) for size in (1, 1500, 1501)] == [0.010, 0.010, 0.030]


@given(st.floats(1e3, 1e9), st.floats(0, 1e4))
def test_a_constant_rate_is_its_own_inverse(bps: float, at_s: float) -> None:
    rate = ConstantRate(bps)
    assert rate.moment(rate.arrived(at_s)) == pytest.approx(at_s)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "needs times"),
        ("0\n0\n", "needs times"),
        ("5\n3\n", "must ascend"),
        ("1\nx\n", ":2: 'x'"),
        ("1\n-2\n", ":2: '-2'"),
        ("1\n2.5\n", ":2: '2.5'"),
        ("1\n\u00e9\n", "not a readable trace"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "broken.trace"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadConfig, match=says) as caught:
        load(path)
    assert "broken.trace" in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadConfig, match=r"'drving\.down'.*driving\.down, .*walking\.up"):
        resolve("drving.down")


def test_a_path_resolves_too(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1\n2\n")
    assert resolve(str(tmp_path / "mine")).opportunities_ms == (1, 2)


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded traces (../shared/data/link_traces) are not here")
def test_recorded_traces_load() -> None:
    for path in sorted(REAL.iterdir()):
        trace = load(path)
        assert 1e5 < trace.mean_bps < trace.peak_bps < 1e8
