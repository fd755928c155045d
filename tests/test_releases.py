"""Moves of versions: what is told to the sites, what is written down, what a failure or a restart leaves."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.model_store import RELEASE, ModelStore, ModelVersion
from actors.swap import SwapReport
from orchestrator.releases import Releases
from orchestrator.versions import first_version, last_live
from policies.errors import NetGPTError, StoreError


class OneSite:
    """A fleet of one site (and others, if they are told anything) that loads nothing."""

    def __init__(self, store: ModelStore, site: str = "north") -> None:
        self.store, self.site, self.others = store, site, ""
        self.at = {site: ""}
        self.broken: set[str] = set()
        self.told: list[tuple[str, dict[str, str]]] = []
        self.at_once, self.most_at_once = 0, 0

    @property
    def runs(self) -> str:
        return self.at[self.site]

    @runs.setter
    def runs(self, version: str) -> None:
        self.at[self.site] = version

    def publish(self, live: ModelVersion, apart: Mapping[str, ModelVersion]) -> None:
        self.told.append((live.version, {site: version.version for site, version in apart.items()}))
        self.others = live.version
        for site in {*self.at, *apart}:
            wanted = apart.get(site, live).version
            if wanted not in self.broken:
                self.at[site] = wanted

    def wait(self, site: str, version: str, known: int) -> SwapReport:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        threading.Event().wait(0.01)
        self.at_once -= 1
        if self.at[site] != version:
            raise NetGPTError(f"{version} was rolled back: it cannot be loaded")
        return SwapReport(version, "", "live", {})

    def swaps_over(self, site: str) -> int:
        return 0


def directory(path: Path, text: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"text": text}))
    return path


def publish(store: ModelStore, parent: ModelVersion | None, **meta: object) -> ModelVersion:
    number = len(store.names()) + 1
    source = directory(store.root.parent / f"src-{number}", f"version {number}")
    return store.publish(source, parent=parent.version if parent else None, meta=meta)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", keep=3)


@pytest.fixture
def three(store: ModelStore) -> list[ModelVersion]:
    one = publish(store, None)
    two = publish(store, one)
    return [one, two, publish(store, two)]


def moved(store: ModelStore, three: list[ModelVersion]) -> tuple[OneSite, Releases]:
    fleet = OneSite(store)
    releases = Releases(store, fleet, "north", lambda: 1000.0)
    releases.start(three[0].version)
    fleet.runs = three[0].version
    return fleet, releases


def test_a_promotion_is_written_down_when_the_site_runs_it(store: ModelStore, three: list[ModelVersion]) -> None:
    fleet, releases = moved(store, three)
    releases.promote(three[1], "it is better")
    state = releases.state
    assert (state.live, state.previous, fleet.runs) == (three[1].version, three[0].version, three[1].version)
    assert [(move.what, move.why) for move in state.moves][-1] == ("promoted", "it is better")


def test_a_promotion_that_fails_changes_nothing_and_the_others_are_told_to_stay(
    store: ModelStore, three: list[ModelVersion]
) -> None:
    fleet, releases = moved(store, three)
    before = releases.state
    fleet.broken = {three[1].version}
    with pytest.raises(NetGPTError, match="rolled back"):
        releases.promote(three[1], "")
    assert releases.state == before and fleet.others == fleet.runs == three[0].version


def test_a_canary_runs_on_one_site_and_ends_on_what_is_live(store: ModelStore, three: list[ModelVersion]) -> None:
    fleet, releases = moved(store, three)
    releases.try_on(three[1], "the gate passed it")
    assert (fleet.runs, fleet.others, releases.state.live) == (three[1].version, three[0].version, three[0].version)
    assert releases.roll_back("by hand") == three[0].version
    assert fleet.runs == three[0].version and releases.state.canary is None
    assert releases.state.refused == (three[1].version,)


def test_a_roll_back_goes_to_the_parent_and_says_when_there_is_none(
    store: ModelStore, three: list[ModelVersion]
) -> None:
    fleet, releases = moved(store, three)
    releases.promote(three[2], "")
    assert [releases.roll_back("") for _ in range(2)] == [three[1].version, three[0].version]
    assert releases.state.previous is None and releases.state.refused == (three[2].version, three[1].version)
    with pytest.raises(StoreError, match="has no parent"):
        releases.roll_back("")
    assert fleet.runs == three[0].version
    releases.promote(three[2], "once more, by hand")
    assert three[2].version not in releases.state.refused


def test_a_roll_back_to_a_parent_that_is_damaged_or_gone_is_refused(
    store: ModelStore, three: list[ModelVersion]
) -> None:
    fleet, releases = moved(store, three)
    releases.promote(three[2], "")
    (three[1].path / "config.json").write_text("rotten")
    with pytest.raises(StoreError, match="fails its checksum"):
        releases.roll_back("")
    (three[1].path / "MANIFEST.json").unlink()
    with pytest.raises(StoreError, match=f"holds no model version {three[1].version}"):
        releases.roll_back("")
    assert fleet.runs == releases.state.live == three[2].version


def test_concurrent_moves_happen_one_after_the_other(store: ModelStore, three: list[ModelVersion]) -> None:
    fleet, releases = moved(store, three)
    threads = [threading.Thread(target=releases.promote, args=(three[n % 3], str(n))) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = releases.state
    assert fleet.most_at_once == 1 and fleet.runs == fleet.others == state.live == state.moves[-1].version
    assert len(state.moves) == 10


def test_a_restart_in_the_middle_of_a_canary_goes_on_with_it(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    releases.try_on(three[1], "")
    resumed = last_live(store)
    assert resumed == three[0]  # the site starts with what is live, and is then told of its canary
    fleet = OneSite(store)
    again = Releases(store, fleet, "north")
    again.start(resumed.version)
    again.settle()
    assert again.state == releases.state
    assert (fleet.runs, fleet.others) == (three[1].version, three[0].version)


def test_what_was_rolled_back_does_not_come_back_with_a_restart(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    releases.promote(three[2], "")
    releases.roll_back("worse")
    assert last_live(store) == three[1]


def test_a_scorer_fitted_for_what_is_live_comes_with_it(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    releases.promote(three[1], "")
    scored = publish(store, three[1], scorer="preference")
    publish(store, three[2], scorer="preference")  # for other weights
    assert last_live(store) == scored


def test_a_store_that_never_ran_starts_with_its_newest(store: ModelStore, three: list[ModelVersion]) -> None:
    assert last_live(store) == three[2]
    assert first_version(store, str(three[2].path)) == three[2]


def test_what_runs_is_never_deleted(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    releases.promote(three[1], "")
    releases.try_on(three[2], "")
    for _ in range(5):
        publish(store, None)
    left = store.names()
    assert left[:3] == [version.version for version in three] and len(left) == 6


@pytest.mark.parametrize("text", ["", "{", "[]", '{"live": 3}', '{"live": null, "canary": null, "moves": []}'])
def test_a_damaged_record_of_what_is_live_is_named_and_nothing_is_deleted(
    store: ModelStore, three: list[ModelVersion], text: str
) -> None:
    (store.root / RELEASE).write_text(text)
    for ask in (lambda: store.release, lambda: last_live(store), lambda: publish(store, None)):
        with pytest.raises(StoreError, match=r"RELEASE.json: cannot be read: .* Fix: remove it"):
            ask()
    assert store.names() == [version.version for version in three]


def test_a_record_that_cannot_be_written_leaves_the_old_one(
    store: ModelStore, three: list[ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, releases = moved(store, three)
    before = releases.state

    def full(fd: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        releases.promote(three[1], "")
    assert releases.state == before


def test_the_record_survives_its_own_json(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    releases.promote(three[1], "a")
    releases.roll_back("b")
    releases.try_on(three[2], "c")
    data: Mapping[str, object] = json.loads((store.root / RELEASE).read_text())
    assert data["live"] == three[0].version and store.release == releases.state
    assert store.release and store.release.role(three[1].version) == "refused"


# ---- versions of one site


def own(store: ModelStore, parent: ModelVersion, site: str) -> ModelVersion:
    return publish(store, parent, site=site)


def test_a_sites_own_version_runs_there_alone_and_survives_a_restart(
    store: ModelStore, three: list[ModelVersion]
) -> None:
    fleet, releases = moved(store, three)
    south, north = own(store, three[0], "south"), own(store, three[0], "north")
    for version in (south, north):
        releases.promote(version, "the gate passed it")
    assert (fleet.at["south"], fleet.at["north"], fleet.others) == (south.version, north.version, three[0].version)
    assert releases.state.live == three[0].version and releases.state.role(south.version) == "live at south"
    fleet = OneSite(store)
    again = Releases(store, fleet, "north")
    again.start(three[0].version)
    again.settle()
    assert again.state == releases.state
    assert (fleet.at["south"], fleet.runs, fleet.others) == (south.version, north.version, three[0].version)


def test_taking_one_sites_version_back_does_not_change_the_other(store: ModelStore, three: list[ModelVersion]) -> None:
    fleet, releases = moved(store, three)
    first, north = own(store, three[0], "south"), own(store, three[0], "north")
    second = own(store, first, "south")
    for version in (first, north, second):
        releases.promote(version, "")
    assert releases.take_back("south", "worse") == first.version  # its own before
    assert releases.take_back("south", "worse") == three[0].version  # what is live
    assert (fleet.at["south"], fleet.at["north"]) == (three[0].version, north.version)
    assert releases.state.refused == (second.version, first.version)
    with pytest.raises(StoreError, match="'south' has no version of its own"):
        releases.take_back("south", "")
    assert last_live(store, "north") == north and last_live(store, "south") == three[0] == last_live(store)


def test_a_site_that_refuses_its_version_keeps_the_old_one(store: ModelStore, three: list[ModelVersion]) -> None:
    fleet, releases = moved(store, three)
    good, bad = own(store, three[0], "south"), own(store, three[0], "south")
    releases.promote(good, "")
    before, fleet.broken = releases.state, {bad.version}
    with pytest.raises(NetGPTError, match="rolled back"):
        releases.promote(bad, "")
    assert releases.state == before and fleet.at["south"] == good.version
    assert fleet.told[-1] == (three[0].version, {"south": good.version})


def test_a_new_version_for_all_leaves_a_sites_own_alone_and_a_canary_goes_before_it(
    store: ModelStore, three: list[ModelVersion]
) -> None:
    fleet, releases = moved(store, three)
    north = own(store, three[0], "north")
    releases.promote(north, "")
    releases.try_on(three[1], "")
    assert fleet.runs == three[1].version
    assert releases.end_canary("worse") == north.version == fleet.runs
    releases.promote(three[2], "")
    assert (fleet.runs, fleet.others) == (north.version, three[2].version)


def test_what_runs_at_a_site_is_never_deleted(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    south = own(store, three[0], "south")
    releases.promote(south, "")
    for _ in range(5):
        own(store, three[0], "south")
    assert {three[0].version, south.version} <= set(store.names())


def test_a_record_from_before_there_were_own_versions_is_read(store: ModelStore, three: list[ModelVersion]) -> None:
    _, releases = moved(store, three)
    data = json.loads((store.root / RELEASE).read_text())
    del data["personal"]
    for move in data["moves"]:
        del move["site"]
    (store.root / RELEASE).write_text(json.dumps(data))
    assert releases.state.personal == {} and releases.state.live == three[0].version
