"""The loop over a real log and a real store: rounds, canaries, promotions, roll-backs, failures, restarts."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_learner import call, record
from test_releases import OneSite, publish

from actors.log_files import read_log
from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import OffloadLog
from actors.options import CanaryOptions, LearnerOptions
from orchestrator.learner import RoundReport
from orchestrator.loop import Loop, Parts, ticking
from orchestrator.releases import Releases
from orchestrator.serving import learning
from orchestrator.versions import last_live
from orchestrator.watching import LogTail, outcomes

MINUTE_S = 60.0
OPTIONS = LearnerOptions(after_labels=50, pause_minutes=1.0, canary=CanaryOptions(labels=60, hours=1.0))


class Plant:
    """A system in little: one site that writes a real log, a real store, a loop; time passes when told."""

    def __init__(self, root: Path) -> None:
        self.root, self.now_s, self.drift = root, 1e6, False
        self.store = ModelStore(root / "models")
        self.first = publish(self.store, None)
        self.fleet = OneSite(self.store)
        self.fleet.runs = self.fleet.others = self.first.version
        self.rng, self.asked = random.Random(0), 0
        self.log = OffloadLog(root / "log", "north")
        self.learn: Callable[[], RoundReport] = self.better
        self.restart()

    def restart(self, options: LearnerOptions = OPTIONS) -> None:
        live = last_live(self.store)
        assert live
        self.releases = Releases(self.store, self.fleet, "north", lambda: self.now_s)
        self.releases.start(live.version)
        parts = Parts(self.store, self.root / "log", self.releases, self._learn, lambda: self.drift, lambda: self.now_s)
        self.loop = Loop(options, parts)

    def _learn(self) -> RoundReport:
        return self.learn()

    def better(self) -> RoundReport:
        parent = self.store.read(self.releases.state.live)
        return RoundReport("success gain", version=publish(self.store, parent))

    def serve(self, count: int, wrong: float = 0.2, invalid: float = 0.0, site: OffloadLog | None = None) -> None:
        """Offloads drafted by what the site runs."""
        log = site or self.log
        for _ in range(count):
            self.asked += 1
            self.now_s += 0.01
            bad = self.rng.random() < wrong
            broken = "it is junk" if self.rng.random() < invalid else None
            log.append(
                record(
                    self.asked,
                    time_us=int(self.now_s * 1e6),
                    draft=call("a" if bad else "b"),
                    draft_error=broken,
                    draft_version=self.fleet.runs,
                )
            )
        log.flush()

    def turn(self, seconds: float = 5.0) -> None:
        self.now_s += seconds
        self.loop.tick()
        self.loop.join(10.0)

    def tried(self) -> ModelVersion:
        """Enough labels, a round, and its version on the site."""
        self.serve(400)
        self.turn(2 * MINUTE_S)
        self.turn()
        state = self.releases.state
        assert state.canary and self.fleet.runs == state.canary.version and self.fleet.others == state.live
        return self.store.read(state.canary.version)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_enough_labels_make_a_round_whose_version_is_tried_and_promoted(plant: Plant) -> None:
    version = plant.tried()
    plant.serve(100, wrong=0.1)
    plant.turn()
    state = plant.releases.state
    assert (state.live, state.canary, plant.fleet.others) == (version.version, None, version.version)
    assert [move.what for move in state.moves] == ["started", "canary", "promoted"]
    assert "north: not worse: no right draft" in state.moves[-1].why


def test_too_few_labels_or_too_soon_make_none(plant: Plant) -> None:
    plant.serve(49)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert plant.store.names() == [plant.first.version]
    plant.restart()
    plant.serve(10)
    plant.turn(MINUTE_S / 2)
    plant.turn()
    assert plant.store.names() == [plant.first.version]


def test_a_worse_version_goes_back_and_the_next_round_waits(plant: Plant) -> None:
    version = plant.tried()
    plant.serve(300, wrong=0.6)
    plant.turn()
    state = plant.releases.state
    assert plant.fleet.runs == state.live == plant.first.version and state.refused == (version.version,)
    assert "worse with confidence 95%" in state.moves[-1].why
    assert plant.loop.gauges()["learner_failures"] == 1.0
    plant.turn(1.5 * MINUTE_S)
    assert len(plant.store.names()) == 2  # twice the pause has not gone by
    plant.turn(MINUTE_S)
    assert len(plant.store.names()) == 3


def test_a_version_whose_drafts_are_invalid_goes_back(plant: Plant) -> None:
    plant.tried()
    plant.serve(200, wrong=0.2, invalid=0.3)
    plant.turn()
    assert plant.fleet.runs == plant.first.version and "invalid" in plant.releases.state.moves[-1].why


def test_the_watch_goes_on_after_the_promotion_and_rolls_every_site_back(plant: Plant) -> None:
    version = plant.tried()
    plant.serve(100, wrong=0.1)
    plant.turn()
    assert plant.releases.state.live == version.version
    plant.serve(1000, wrong=0.7)
    plant.turn()
    state = plant.releases.state
    assert plant.fleet.runs == plant.fleet.others == state.live == plant.first.version
    assert state.refused == (version.version,) and state.previous is None


def test_another_site_that_fares_worse_rolls_all_back(plant: Plant) -> None:
    south = OffloadLog(plant.root / "log", "south")
    plant.serve(400, site=south)
    plant.tried()
    plant.serve(100, wrong=0.1)
    plant.turn()
    plant.serve(500, wrong=0.7, site=south)
    plant.turn()
    assert plant.fleet.runs == plant.first.version and plant.releases.state.moves[-1].why.startswith("south: worse")
    south.close()


def test_the_watch_ends_in_time(plant: Plant) -> None:
    plant.restart(OPTIONS.model_copy(update={"enabled": False}))
    second = publish(plant.store, plant.first)
    plant.serve(400)
    plant.releases.promote(second, "by hand")
    plant.turn(73 * 3600.0)
    plant.serve(1000, wrong=0.9)
    plant.turn()
    assert plant.releases.state.live == second.version


def test_a_promotion_by_hand_is_watched_even_when_no_rounds_run(plant: Plant) -> None:
    plant.restart(OPTIONS.model_copy(update={"enabled": False}))
    plant.serve(400)
    plant.releases.promote(publish(plant.store, plant.first), "by hand")
    plant.serve(600, wrong=0.7)
    plant.turn()
    assert plant.fleet.runs == plant.releases.state.live == plant.first.version
    assert len(plant.store.names()) == 2


def test_a_restart_in_the_middle_of_a_canary_keeps_its_evidence(plant: Plant) -> None:
    version = plant.tried()
    plant.serve(40, wrong=0.1)
    plant.turn()
    before = plant.loop.gauges()
    plant.fleet.runs = plant.first.version  # what the site starts with
    plant.restart()
    plant.turn()
    assert plant.fleet.runs == version.version and plant.loop.gauges()["canary_labels"] == before["canary_labels"] == 40
    plant.serve(40, wrong=0.1)
    plant.turn()
    assert plant.releases.state.live == version.version


def test_a_round_that_gave_sites_their_own_versions_was_worth_it_and_those_are_watched(plant: Plant) -> None:
    plant.learn = lambda: RoundReport("the gate refused: no gain", given=["north"])
    plant.serve(400)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert plant.releases.state.canary is None
    assert plant.loop.gauges()["learner_failures"] == 0.0
    looked: list[int] = []
    parts = replace(plant.loop._parts, watch=lambda: looked.append(1))
    Loop(OPTIONS, parts).tick()
    assert looked == [1]


def test_a_restart_counts_labels_that_a_sites_own_round_has_seen_as_well(plant: Plant) -> None:
    plant.serve(100)
    own = publish(plant.store, plant.first, log={"north": [0, 99]}, site="north")
    publish(plant.store, own, log={"south": [0, 50]}, site="south")
    plant.restart()
    plant.turn()
    assert plant.loop.gauges()["learner_labels"] == 0.0


def test_a_restart_counts_only_labels_that_no_round_has_seen(plant: Plant) -> None:
    plant.serve(400)
    trained = publish(plant.store, plant.first, log={"north": [0, 399]})
    plant.releases.promote(trained, "by hand")
    plant.restart()
    plant.serve(7)
    plant.turn()
    assert plant.loop.gauges()["learner_labels"] == 7.0


def test_rounds_that_bring_nothing_become_seldom(plant: Plant) -> None:
    plant.learn = lambda: RoundReport("the gate refused: no gain")
    rounds = 0
    for _ in range(60):
        plant.serve(60)
        plant.turn(MINUTE_S)
        rounds += plant.loop.gauges()["learner_training"] == 1.0
    assert rounds == 5  # after 1, 2, 4, 8 and 16 minutes and what the ticks add


def test_a_round_that_dies_is_logged_and_the_loop_goes_on(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    def dying() -> RoundReport:
        raise RuntimeError("out of memory")

    plant.learn = dying
    plant.serve(100)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert "out of memory" in caplog.text and plant.loop.gauges()["learner_failures"] == 1.0
    assert plant.fleet.runs == plant.first.version


def test_a_round_that_the_end_cuts_off_is_no_error(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    def cut_off() -> RoundReport:
        plant.loop.over.wait(10.0)
        raise RuntimeError("Ray is gone")

    plant.learn = cut_off
    plant.serve(100)
    plant.now_s += 2 * MINUTE_S
    with ticking(plant.loop):
        plant.loop.tick()
    plant.loop.join(10.0)
    assert plant.loop.over.is_set() and "Ray is gone" not in caplog.text


def test_a_round_blocks_neither_the_watch_nor_an_order(plant: Plant) -> None:
    over = threading.Event()

    def slow() -> RoundReport:
        over.wait(10.0)
        return RoundReport("the gate refused")

    plant.learn = slow
    plant.serve(400)
    plant.now_s += 2 * MINUTE_S
    plant.loop.tick()
    assert plant.loop.gauges()["learner_training"] == 1.0
    plant.releases.promote(publish(plant.store, plant.first), "by hand")
    plant.serve(600, wrong=0.7)
    plant.now_s += 5.0
    plant.loop.tick()
    assert plant.releases.state.live == plant.first.version
    over.set()


def test_a_version_from_what_is_no_longer_live_is_not_tried(plant: Plant) -> None:
    def overtaken() -> RoundReport:
        report = plant.better()
        plant.releases.promote(publish(plant.store, plant.first), "by hand, meanwhile")
        return report

    plant.learn = overtaken
    plant.serve(400)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert plant.releases.state.canary is None and plant.releases.state.moves[-1].why == "by hand, meanwhile"


def test_a_version_that_the_site_cannot_load_leaves_what_is_live(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    def unloadable() -> RoundReport:
        report = plant.better()
        assert report.version
        plant.fleet.broken = {report.version.version}
        return report

    plant.learn = unloadable
    plant.serve(400)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    plant.turn()
    assert "was rolled back: it cannot be loaded" in caplog.text
    assert plant.releases.state.canary is None and plant.fleet.runs == plant.first.version
    assert plant.loop.gauges()["learner_failures"] == 1.0


def test_a_version_that_rotted_before_its_trial_is_refused_by_its_digests(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    def rotten() -> RoundReport:
        report = plant.better()
        assert report.version
        (report.version.path / "config.json").write_text("rotten")
        return report

    plant.learn = rotten
    plant.serve(400)
    plant.turn(2 * MINUTE_S)
    plant.turn()
    assert "fails its checksum" in caplog.text
    assert plant.releases.state.canary is None and plant.fleet.runs == plant.first.version


def test_a_roll_back_to_a_parent_that_is_gone_is_said_once_and_what_runs_stays(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    version = plant.tried()
    plant.serve(100, wrong=0.1)
    plant.turn()
    (plant.first.path / "MANIFEST.json").unlink()
    plant.serve(1000, wrong=0.7)
    for _ in range(3):
        plant.loop.tick()
    assert plant.fleet.runs == version.version
    assert caplog.text.count(f"holds no model version {plant.first.version}") == 1


def test_a_parent_that_is_gone_does_not_keep_a_canary_on_its_site_unnoticed(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    plant.tried()
    (plant.first.path / "MANIFEST.json").unlink()
    plant.serve(300, wrong=0.7)
    plant.turn()
    assert f"holds no model version {plant.first.version}" in caplog.text
    assert plant.releases.state.canary


def test_the_thread_ticks_and_ends(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.loop.TICK_S", 0.01)
    plant.serve(400)
    plant.now_s += 2 * MINUTE_S
    with ticking(plant.loop):
        for _ in range(500):
            if plant.releases.state.canary:
                break
            threading.Event().wait(0.02)
    assert plant.releases.state.canary
    assert not [thread for thread in threading.enumerate() if thread.name == "loop"]


def test_status_says_what_is_tried_and_what_was_done_last(plant: Plant) -> None:
    version = plant.tried()
    lines = list(learning(plant.releases.state, plant.loop.gauges(), True))
    assert f"canary      {version.version} on north: 0 labels" in lines[1]
    assert "canary edge-0002" in lines[2] and lines[2].endswith("success gain")
    plant.serve(100, wrong=0.1)
    plant.turn()
    plant.turn()
    lines = list(learning(plant.releases.state, plant.loop.gauges(), False))
    assert f"compared with {plant.first.version}: 100 labels" in lines[0]
    assert lines[-1] == "learner     off (learner.enabled)"
    assert list(learning(None, {}, True)) == []


# ---- the log as it grows


def test_the_tail_gives_each_record_once_whatever_the_files(tmp_path: Path) -> None:
    logs = [OffloadLog(tmp_path, site, segment_records=7) for site in ("a", "b")]
    tail, seen = LogTail(tmp_path), []
    for number in range(60):
        for log in logs:
            log.append(record(number))
        if number % 11 == 0:
            for log in logs:
                log.flush()
            table = tail.read()
            seen += list(zip(table["site"].to_pylist(), table["seq"].to_pylist(), strict=True))
    for log in logs:
        log.close()
    table = tail.read()
    seen += list(zip(table["site"].to_pylist(), table["seq"].to_pylist(), strict=True))
    assert sorted(seen) == [(site, seq) for site in ("a", "b") for seq in range(60)]
    assert len(tail.read()) == 0


def test_what_is_known_is_not_read_again(tmp_path: Path) -> None:
    log = OffloadLog(tmp_path, "a", segment_records=10)
    for number in range(95):
        log.append(record(number))
        if number % 5 == 4:
            log.flush()
    log.close()
    assert len(read_log(tmp_path)) == 95
    assert read_log(tmp_path, {"a": 69})["seq"].to_pylist()[0] >= 65
    assert read_log(tmp_path, {"a": 94})["seq"].to_pylist()[-1] == 94


def test_records_that_say_nothing_of_the_weights_are_left_out_and_what_was_given_up_is_not() -> None:
    plain = {
        "draft": call("a"),
        "draft_error": None,
        "draft_propensity": 1.0,
        "reason": "score_below",
        "score": 0.5,
        "propensity": 1.0,
        "cloud": call("b"),
        "cloud_error": None,
    }
    silent: list[dict[str, object]] = [
        {"propensity": 0.0, "cloud": None},
        {"propensity": 1e-9},
        {"cloud": None, "cloud_error": "refused"},
    ]
    kept = {"reason": "score_passed", "propensity": 0.05, "score": 0.9}
    told: list[dict[str, object]] = [{}, kept, {**kept, "cloud": None}, {"cloud": call("a")}]
    given_up: list[dict[str, object]] = [
        {"reason": "draft_skipped", "draft_propensity": 0.95},
        {"reason": "draft_abandoned"},
        {"draft_propensity": 0.05, "cloud": call("a")},
    ]
    found = outcomes([{**plain, **changes} for changes in (*silent, *told, *given_up)])
    assert found.wrong.tolist() == [1.0, 20.0, 0.0, 0.0, 1.0, 1.0, 1.0] and (found.labels, found.heaviest) == (3, 20.0)
    assert found.audits.tolist() == [0.95] and found.invalid.tolist() == [0.0] * 7
    assert outcomes([{**plain, "draft_error": "junk", "cloud": call("a")}]).invalid.tolist() == [1.0]
