"""Personal edges: each site's adapter follows its own log, and what happens to one leaves the others alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engine_kit import SETTINGS
from test_learner import OPTIONS, PARENT, TOOLS, call, record
from test_releases import OneSite, publish
from tiny_model import tiny_model_dir

from actors.build import build_engine
from actors.engine import Engine, Prompt, Sampling
from actors.model_store import ModelStore, ModelVersion, verify
from actors.offload_log import OffloadLog
from actors.scorer import Scorer
from actors.site_rules import Scorers
from actors.swap import Swapper, SwapReport, Weights
from actors.training import run_job
from orchestrator.config import default_config
from orchestrator.learner import Learner, RoundReport
from orchestrator.personal import PersonalEdges, personal_options
from orchestrator.refit import refit
from orchestrator.releases import Releases
from policies.errors import NetGPTError
from policies.release import Personal

SITES = {"north": "a", "south": "b"}  # where each site wants every slice to go
LEARN = OPTIONS.model_copy(update={"personal": True, "lr": 2e-2, "lora_rank": 4, "steps": 30, "variants": 2})

pytestmark = pytest.mark.slow


class RealSites:
    """A fleet of real engines, one a site, that swap as a site does."""

    def __init__(self, base: ModelVersion) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.engines: dict[str, Engine] = {}
        self.swappers: dict[str, Swapper] = {}
        self._reports: dict[str, list[SwapReport]] = {site: [] for site in SITES}
        for site in SITES:  # vLLM, which takes torch's threads for itself, would slow down training beside it
            self.engines[site] = self._do(build_engine("transformers", base.path, base.version, SETTINGS))
            weights, scorers = Weights(base.version, base.path), Scorers(base.version, Scorer.load(base.path))
            self.swappers[site] = Swapper(self.engines[site], weights, scorers, verify, lambda: 0.0)

    def publish(self, live: ModelVersion, apart: Mapping[str, ModelVersion]) -> None:
        for site, swapper in self.swappers.items():
            wanted = apart.get(site, live)
            if swapper.live.version != wanted.version:
                report = self._do(swapper.swap(Weights(wanted.version, wanted.path), wanted.sha256))
                self._reports[site].append(report)

    def wait(self, site: str, version: str, known: int) -> SwapReport:
        report = self._reports[site][-1]
        if report.outcome != "live" or report.version != version:
            raise NetGPTError(f"{version} was rolled back: {report.error}")
        return report

    def swaps_over(self, site: str) -> int:
        return len(self._reports[site])

    def answers(self, site: str) -> set[tuple[str, str]]:
        """Text and version of the site's answers to questions that no log has."""
        asked = [Prompt([{"role": "user", "content": f"put slice {n} in b"}], json.loads(TOOLS)) for n in (207, 311)]
        made = [self._do(self.engines[site].generate(prompt, Sampling(max_tokens=40))) for prompt in asked]
        return {(one.completions[0].text, one.version) for one in made}

    def close(self) -> None:
        for engine in self.engines.values():
            self._do(engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)


class Plant:
    """Two sites that want opposite answers to the same questions, and one that has hardly been asked."""

    def __init__(self, root: Path) -> None:
        directory = tiny_model_dir(root / "edge")
        (directory / "calibrator.json").write_text(PARENT.to_json())
        self.root, self.store, self.log_dir = root, ModelStore(root / "store", keep=2), root / "log"
        self.base = self.store.publish(directory)
        for site, place in SITES.items():
            self.asked(site, place, range(100))
        self.asked("west", "a", range(5))
        self.sites = RealSites(self.base)
        self.start()

    def asked(self, site: str, place: str, numbers: range) -> None:
        log, other = OffloadLog(self.log_dir, site), "b" if place == "a" else "a"
        for number in numbers:
            log.append(record(number, cloud=call(place), draft=call(other), draft_version=self.base.version))
        log.close()

    def start(self) -> None:
        """The system starts, or starts again."""
        self.releases = Releases(self.store, self.sites, "north")
        self.releases.start(self.base.version)
        self.edges = PersonalEdges(self.store, self.log_dir, self.releases, LEARN, self.learner)

    def learner(self, site: str) -> Learner:
        fitted, options = partial(refit, default_config()), personal_options(LEARN)
        return Learner(
            self.log_dir, self.store, options, self.root / "work", lambda job, _: run_job(job), fitted, site=site
        )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    plant = Plant(tmp_path_factory.mktemp("plant"))
    yield plant
    plant.sites.close()


@pytest.fixture(scope="module")
def own(plant: Plant) -> Mapping[str, ModelVersion]:
    """The versions of the first personal round."""
    before = {site: plant.sites.answers(site) for site in SITES}
    assert before["north"] == before["south"]
    reports = dict(plant.edges.round())
    few = reports.pop("west")
    assert few.version is None and "5 labelled records, 20 are needed" in few.reason
    assert plant.releases.state.of("west") == plant.base.version
    found = {site: report.version for site, report in reports.items() if report.version}
    assert set(found) == set(SITES), reports
    return found


def answer(site: str, version: ModelVersion) -> set[tuple[str, str]]:
    return {(call(SITES[site]), version.version)}


def test_sites_with_opposite_labels_get_two_adapters_and_each_follows_its_own_log(
    plant: Plant, own: Mapping[str, ModelVersion]
) -> None:
    for site, version in own.items():
        assert plant.sites.answers(site) == answer(site, version)
        assert (version.base, version.site, version.meta["log"]) == (plant.base.version, site, {site: [0, 99]})
        assert plant.releases.state.personal[site].before == plant.base.version
        assert Scorer.load(version.path).calibrator != PARENT  # its own, of its own labels
    assert plant.releases.state.live == plant.base.version


def test_a_damaged_adapter_is_refused_at_its_site_and_nothing_changes(
    plant: Plant, own: Mapping[str, ModelVersion]
) -> None:
    meta, before = {"site": "north"}, plant.releases.state
    rotten = plant.store.publish(own["south"].path, parent=own["north"].version, meta=meta)
    (rotten.path / "adapter_model.safetensors").write_bytes(b"rotten")
    with pytest.raises(NetGPTError, match=r"adapter_model.safetensors: fails its checksum"):
        plant.releases.promote(rotten, "")
    plant.sites.publish(plant.base, {"north": rotten, "south": own["south"]})
    with pytest.raises(NetGPTError, match="fails its checksum"):  # by the site's own check
        plant.sites.wait("north", rotten.version, 0)
    plant.releases.settle()
    assert plant.releases.state == before
    for site, version in own.items():
        assert plant.sites.answers(site) == answer(site, version)


def test_a_site_learns_on_from_its_own_adapter_and_taking_it_back_leaves_the_other_alone(
    plant: Plant, own: Mapping[str, ModelVersion]
) -> None:
    untouched = plant.sites.engines["south"]
    swaps = plant.sites.swaps_over("south")
    second = plant.store.publish(own["north"].path, parent=own["north"].version, meta={"site": "north"})
    plant.releases.promote(second, "")
    assert plant.releases.state.personal["north"] == Personal(
        second.version, plant.releases.state.personal["north"].since_us, own["north"].version, own=True
    )
    plant.start()  # the system starts anew, and the sites are told what they ran
    plant.releases.settle()
    assert plant.sites.answers("north") == answer("north", second)
    assert plant.releases.take_back("north", "worse") == own["north"].version
    assert plant.sites.answers("north") == answer("north", own["north"])
    assert plant.releases.take_back("north", "worse") == plant.base.version
    assert {version for _, version in plant.sites.answers("north")} == {plant.base.version}
    assert plant.sites.answers("south") == answer("south", own["south"])
    assert plant.sites.swaps_over("south") == swaps and plant.sites.engines["south"] is untouched
    plant.releases.promote(own["north"], "once more, by hand")
    assert plant.sites.answers("north") == answer("north", own["north"])


# ---- watched, without engines


def test_a_version_that_is_proved_worse_at_its_site_is_taken_back(tmp_path: Path) -> None:
    store, log_dir = ModelStore(tmp_path / "store"), tmp_path / "log"
    base = publish(store, None)
    south = publish(store, base, site="south")
    now = 1_000_000.0
    releases = Releases(store, OneSite(store), "north", lambda: now)
    releases.start(base.version)
    right = {"draft": call("b"), "score": 0.5, "route": "cloud"}
    log = OffloadLog(log_dir, "south")
    for number in range(300):
        log.append(record(number, draft_version=base.version, time_us=int(now * 1e6) - 1000 + number, **right))
    log.flush()
    releases.promote(south, "the gate passed it")
    edges = PersonalEdges(store, log_dir, releases, LEARN, lambda site: pytest.fail("no round"), lambda: now + 60.0)
    edges.watch()
    assert releases.state.of("south") == south.version  # nothing is known of it yet
    for number in range(300):  # wrong each time
        log.append(record(number, draft_version=south.version, time_us=int(now * 1e6) + 1000 + number))
    log.close()
    edges.watch()
    assert releases.state.of("south") == base.version and south.version in releases.state.refused
    assert releases.state.moves[-1].site == "south"


def test_once_the_shared_model_has_moved_on_a_site_starts_from_it_and_is_compared_with_its_own(tmp_path: Path) -> None:
    store, log_dir, now = ModelStore(tmp_path / "store"), tmp_path / "log", [1_000.0]
    base = publish(store, None)
    releases = Releases(store, OneSite(store), "north", lambda: now[0])
    releases.start(base.version)
    south = publish(store, base, site="south")
    releases.promote(south, "the gate passed it")
    log = OffloadLog(log_dir, "south")
    log.append(record(1))
    log.close()
    asked: list[tuple[ModelVersion | None, ModelVersion | None]] = []

    class Spy:
        def round(self, parent: ModelVersion | None, start: ModelVersion | None) -> RoundReport:
            asked.append((parent, start))
            return RoundReport("")

    edges = PersonalEdges(store, log_dir, releases, LEARN, lambda site: Spy())  # type: ignore[arg-type, return-value]
    edges.round()
    now[0] += 60.0
    shared = publish(store, base)
    releases.promote(shared, "better for all")
    edges.round()
    assert [(parent and parent.version, start and start.version) for parent, start in asked] == [
        (south.version, None),
        (south.version, shared.version),
    ]
