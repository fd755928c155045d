"""A hot swap of the edge weights: each draft by its own calibrator, no request dropped, every failure rolled back."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

from edge_fakes import (
    SURE,
    FakeEngine,
    NodeKit,
    ask,
    until,
    write_calibrator,
)

from policies.errors import EngineError, StoreError
from policies.types import Route


async def test_a_swap_scores_each_draft_by_the_calibrator_of_its_own_version(tmp_path: Path) -> None:
    kit = NodeKit()
    kit.edge.gate = asyncio.Event()
    in_flight = asyncio.create_task(kit.node.answer(ask()))
    await until(lambda: bool(kit.edge.asked))
    kit.edge.gate.set()
    stricter = write_calibrator(tmp_path / "new")
    data = json.loads((stricter / "calibrator.json").read_text())
    data["intercept"] = -9.0
    (stricter / "calibrator.json").write_text(json.dumps(data))
    report = await kit.node.swap("edge-0002-bbbbbbbb", stricter, "sum")
    assert report.outcome == "live"
    assert list(report.moments) == ["pending", "drained", "loaded", "verified", "live"]
    assert list(report.moments.values()) == sorted(report.moments.values())
    assert (await in_flight).route is Route.EDGE
    after = await kit.node.answer(ask())
    assert (after.route, after.draft.version) == (Route.CLOUD, "edge-0002-bbbbbbbb")
    assert kit.node.version == "edge-0002-bbbbbbbb"
    assert kit.node.gauges()["version"] == 2


async def test_a_swap_never_drops_a_request(tmp_path: Path) -> None:
    kit = NodeKit()
    asked = [asyncio.create_task(kit.node.answer(ask())) for _ in range(20)]
    report = await kit.node.swap("edge-0002-bbbbbbbb", write_calibrator(tmp_path / "new"), "sum")
    asked += [asyncio.create_task(kit.node.answer(ask())) for _ in range(20)]
    answers = await asyncio.gather(*asked)
    assert report.outcome == "live"
    assert len(answers) == len(kit.log.records) == 40


async def test_a_bad_checksum_a_missing_calibrator_or_an_unfit_model_keeps_the_old_weights(tmp_path: Path) -> None:
    def mismatch(path: Path, sha256: str) -> None:
        raise StoreError(f"{path}: its checksum is x, not {sha256}")

    new = write_calibrator(tmp_path / "new")
    kits = [NodeKit(verify=mismatch), NodeKit(), NodeKit()]
    kits[2].edge.load_error = EngineError("weights: wrong shape")
    paths = [new, tmp_path / "absent", new]
    for kit, path, words in zip(kits, paths, ["checksum", "calibrator.json", "wrong shape"], strict=True):
        report = await kit.node.swap("edge-0002-bbbbbbbb", path, "sum")
        assert report.outcome == "rolled_back"
        assert words in (report.error or "")
        assert "live" not in report.moments
        assert kit.node.version == "edge-0001-aaaaaaaa"
        assert (await kit.node.answer(ask())).served.version == "edge-0001-aaaaaaaa"
        assert kit.node.gauges()["swaps_rolled_back"] == 1


async def test_weights_that_give_nonsense_are_rolled_back_to_the_old_ones(tmp_path: Path) -> None:
    class Nonsense(FakeEngine):
        async def load(self, path: Path, version: str):  # type: ignore[no-untyped-def]
            self.logprobs = (math.nan,) if version == "edge-0002-bbbbbbbb" else SURE
            return await super().load(path, version)

    kit = NodeKit(Nonsense())
    report = await kit.node.swap("edge-0002-bbbbbbbb", write_calibrator(tmp_path / "new"), "sum")
    assert report.outcome == "rolled_back"
    assert list(report.moments)[-1] == "rolled_back"
    assert kit.edge.loaded[-1] == (kit.weights.path, kit.weights.version)
    assert (await kit.node.answer(ask())).served.version == kit.weights.version


async def test_a_swap_to_the_live_version_changes_nothing(tmp_path: Path) -> None:
    kit = NodeKit()
    report = await kit.node.swap(kit.node.version, tmp_path, "sum")
    assert (report.outcome, kit.edge.loaded) == ("live", [])


async def test_two_swaps_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    kit = NodeKit()
    paths = [write_calibrator(tmp_path / name) for name in ("a", "b")]
    reports = await asyncio.gather(
        kit.node.swap("edge-0002-bbbbbbbb", paths[0], "s"), kit.node.swap("edge-0003-cccccccc", paths[1], "s")
    )
    assert [report.previous for report in reports] == ["edge-0001-aaaaaaaa", "edge-0002-bbbbbbbb"]
    assert kit.node.version == "edge-0003-cccccccc"


async def test_observers_hear_of_answers_and_swaps(tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear:
        def answered(self, answer: object) -> None:
            heard.append("answered")

        def swapped(self, report: object) -> None:
            heard.append("swapped")

    kit = NodeKit()
    kit.node.observers.append(Ear())
    await kit.node.answer(ask())
    await kit.node.swap("edge-0002-bbbbbbbb", write_calibrator(tmp_path / "a"), "s")
    assert heard == ["answered", "swapped"]
