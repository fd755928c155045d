"""A running system whose processes are killed, whose link flaps and whose log disk is full, while clients ask.

One system for all tests, with its real models: each leaves it as it found it. A cut link that stays cut is in
``test_system``, a training worker that is killed in ``test_train_job``, a whole ``netgpt serve`` in
``test_faults_restart``.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from faults_kit import Asked, asking, kill, logged, successor, title_of, until

from cluster import placement
from cluster.link_emulator import LinkSpec
from orchestrator.demo.run import demo_config
from orchestrator.system import System
from policies.errors import NetGPTError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
WIDE = LinkSpec("wide", up=50e6, down=100e6, delay_ms=5.0)
SITE, ROUTER, CLOUD = "ray::EdgeSite", "ray::Router", "ray::ServeReplica:cloud:LLMServer:cloud"
ENGINES = ("VLLM::EngineCore", "VLLM::Worker")
UNACKNOWLEDGED_S = 0.5  # an answer does not wait for its record, which reaches the disk some 20 ms later
DISK = 4 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system of 4 MiB for the log; None where mounting is not allowed."""
    directory = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        yield None
        return
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, disk: Path | None) -> Iterator[System]:
    config = demo_config(tmp_path_factory.mktemp("var"))
    changed = {
        "site": config.site.model_copy(update={"audit_rate": 0.0}),  # an audited request is logged after its audit
        "learner": config.learner.model_copy(update={"enabled": False}),
        "store": config.store.model_copy(update={"keep": 2}),
        "log": config.log.model_copy(update={"dir": disk / "log"} if disk else {}),
    }
    live = System(config.model_copy(update=changed))
    live.start()
    with live.improving():
        yield live
    live.stop()


def settled(system: System) -> list[str]:
    """What is logged, once all of it is on disk."""
    until("the log is written", lambda: not system.gauges()["log_lag"])
    return logged(system.config.log_dir)


def answered(asked: list[Asked], count: int, since_s: float = 0.0) -> bool:
    return sum(one.status == 200 for one in list(asked) if one.over_s > since_s) >= count


def kill_the_site(system: System, asked: list[Asked]) -> float:
    """kill -9 while clients ask, until they are answered again."""
    until("answers", lambda: answered(asked, 20))
    killed_s = kill(SITE)
    until("answers by the new process", lambda: answered(asked, 20, killed_s + 0.2))
    return killed_s


def test_a_killed_site_comes_back_where_it_was_with_what_is_live_and_every_acknowledged_record(
    system: System, tmp_path: Path
) -> None:
    first = system.releases.state.live
    for number in range(3):
        live = successor(system.store, tmp_path, f"copy-{number}")
        assert system.swap(live).outcome == "live"
    assert first not in system.store.names(), "the version that the killed process was started with is gone"
    with asking(system.urls.endpoint) as asked:
        until("answers", lambda: answered(asked, 20))
        acknowledged = set(logged(system.config.log_dir))
        killed_s = kill_the_site(system, asked)
    assert {one.status for one in asked} == {0, 200}, "closed connections while it was down, and no other failure"
    assert {one.version for one in asked if one.status == 200} == {live.version}
    assert system.site_info()["url"] == system.urls.endpoint
    found = settled(system)
    assert len(found) == len(set(found)) and acknowledged <= set(found) and len(acknowledged) > 10
    lost = [one for one in asked if one.status == 200 and one.request_id not in set(found)]
    assert all(abs(one.over_s - killed_s) < UNACKNOWLEDGED_S for one in lost), lost


def test_a_site_that_is_killed_in_a_swap_runs_what_the_record_says(system: System, tmp_path: Path) -> None:
    before, version = system.releases.state.live, successor(system.store, tmp_path, "interrupted")
    said: list[str] = []

    def swap() -> None:
        try:
            said.append(system.swap(version).outcome)
        except NetGPTError as why:
            said.append(str(why))

    swapping = threading.Thread(target=swap)
    with asking(system.urls.endpoint) as asked:
        until("answers", lambda: answered(asked, 5))
        swapping.start()
        time.sleep(0.05)
        killed_s = kill(SITE)
        until("answers by the new process", lambda: answered(asked, 5, killed_s + 0.2))
        swapping.join(90.0)
    live = system.releases.state.live
    assert live == (version.version if said == ["live"] else before), said
    until("the site runs what is live", lambda: system.site_info()["version"] == live)
    assert system.swap(version).outcome == "live", "and nothing stands in the way of another try"


def test_a_killed_router_comes_back_learns_its_sites_again_and_moves_them(system: System, tmp_path: Path) -> None:
    with asking(system.urls.endpoint) as asked:
        until("answers", lambda: answered(asked, 5))
        kill(ROUTER)
        until("the link table", lambda: system.config.site.name in sites())
        until("the link is up", lambda: system.gauges()["link_up"])
    assert {one.status for one in asked} == {200}
    version = successor(system.store, tmp_path, "after the router")
    assert system.swap(version).outcome == "live"


def test_a_killed_cloud_replica_is_done_without_until_there_is_another(system: System) -> None:
    old = {found.pid for found in psutil.Process().children(recursive=True) if title_of(found) in ENGINES}
    with asking(system.urls.endpoint, clients=2, route="cloud") as asked:
        until("answers of the cloud", lambda: answered(asked, 5))
        killed_s = kill(CLOUD)
        until("answers without it", lambda: any(one.degraded for one in list(asked)))
        until("answers of another", lambda: any(o.route == "cloud" and o.over_s > killed_s + 5.0 for o in list(asked)))
    assert {one.status for one in asked} <= {200, 503}, "an answer, or that there is none now"
    assert not [pid for pid in old if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_a_link_that_flaps_costs_no_request_and_no_record(system: System) -> None:
    with asking(system.urls.endpoint) as asked:
        for _ in range(6):
            system.set_link(replace(WIDE, outage=True))
            time.sleep(0.4)
            system.set_link(WIDE)
            time.sleep(0.4)
        flapped_s = time.monotonic()
        until("the link is up", lambda: system.gauges()["link_up"])
        until("the cloud answers", lambda: any(o.route == "cloud" and o.over_s > flapped_s for o in list(asked)))
    assert {one.status for one in asked} == {200}
    found = settled(system)
    assert len(found) == len(set(found)) and {one.request_id for one in asked} <= set(found)


def test_a_full_log_disk_is_not_felt_and_its_records_are_written_once_there_is_room(
    system: System, disk: Path | None
) -> None:
    if disk is None:
        pytest.skip("no right to mount a tmpfs")
    errors = system.gauges()["log_write_errors"]
    with asking(system.urls.endpoint) as asked:
        fill(disk)
        until("the log cannot be written", lambda: system.gauges()["log_write_errors"] > errors)
        until("answers", lambda: answered(asked, 30))
        assert system.gauges()["log_lag"] > 0
        (disk / "filler").unlink()
    assert {one.status for one in asked} == {200}
    found = settled(system)
    assert len(found) == len(set(found)) and {one.request_id for one in asked} <= set(found)
    assert system.gauges()["log_shed"] == 0


def test_a_site_that_is_killed_while_its_log_disk_is_full_comes_back(system: System, disk: Path | None) -> None:
    if disk is None:
        pytest.skip("no right to mount a tmpfs")
    acknowledged = settled(system)
    fill(disk)
    with asking(system.urls.endpoint) as asked:
        kill_the_site(system, asked)
        (disk / "filler").unlink()
        freed_s = time.monotonic()
        until("answers", lambda: answered(asked, 10, freed_s))
    assert {one.status for one in asked} == {0, 200}
    found = settled(system)
    late = {one.request_id for one in asked if one.status == 200 and one.over_s > freed_s}
    assert len(found) == len(set(found)) and set(acknowledged) | late <= set(found)


def sites() -> dict[str, object]:
    """What the router knows; nothing while it starts."""
    router = placement.find("router")
    assert router
    try:
        return dict(router.call("sites"))
    except NetGPTError:
        return {}


def fill(disk: Path) -> None:
    """Write until nothing fits any more."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return
