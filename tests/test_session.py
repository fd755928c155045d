"""The Ray session: what it refuses in one sentence, what it gives, and that it leaves nothing behind."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cluster import placement, session
from cluster.options import RayOptions
from cluster.placement import Placed, Spec
from policies.errors import BadConfig, NetGPTError

OPTIONS = RayOptions(dashboard_port=0, temp_dir=Path("/tmp/netgpt-test"), num_cpus=4)


class Greeter:
    """A service that listens on a port and counts."""

    def __init__(self, port: int, fail: str = "") -> None:
        self.port, self.fail, self.asked = port, fail, 0

    async def start(self) -> None:
        if self.fail:
            raise BadConfig(self.fail)
        self.listener = socket.create_server(("127.0.0.1", self.port))

    async def stop(self) -> None:
        if not self.fail:
            self.listener.close()

    def gauges(self) -> dict[str, float]:
        return {"asked": self.asked, "odd name!": 1.0, "endless": float("inf")}

    def info(self) -> dict[str, object]:
        return {"port": self.port, "pid": psutil.Process().pid}

    async def greet(self, name: str) -> str:
        self.asked += 1
        return f"hello {name}"

    def refuse(self) -> None:
        raise NetGPTError("not today")


@pytest.fixture(scope="module")
def before() -> set[int]:
    """Children that other tests have left to this process, such as multiprocessing's resource tracker."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def running(before: set[int]) -> Iterator[session.Session]:
    live = session.start(OPTIONS, {"site:here": 1.0}, {"PYTHONPATH": str(Path(__file__).parent)})
    yield live
    live.stop()


def test_a_taken_dashboard_port_is_one_sentence_with_the_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadConfig, match=rf"^ray\.dashboard_port: port {port} on 127.0.0.1 .* set .* to 0"):
            session.start(RayOptions(dashboard_port=port))
    assert not ray.is_initialized()


def test_a_free_port_can_be_opened_and_is_none_that_a_connection_takes_by_itself() -> None:
    found = {session.free_port() for _ in range(50)}
    assert len(found) > 1
    for port in found:
        session.check_port("site.port", "127.0.0.1", port)
    assert max(found) < 32_768


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_a_host_that_is_not_this_machine_is_one_sentence_with_the_fix(host: str) -> None:
    with pytest.raises(BadConfig, match=rf"no port can be opened on '{host}' \(.+\)\. Fix: give an address"):
        session.free_port(host)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_one_sentence_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"^ray\.address: no Ray cluster could be joined at '127.0.0.1:1'.*Fix"):
        session.start(RayOptions(address="127.0.0.1:1"))
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_second_session_in_one_process_is_one_sentence(running: session.Session) -> None:
    with pytest.raises(BadConfig, match="Ray is already running in this process"):
        session.start(OPTIONS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_dashboard_asks_for_the_token(running: session.Session) -> None:
    assert running.dashboard_url is not None
    url = f"{running.dashboard_url}/api/cluster_status"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {running.token}"})
    assert urllib.request.urlopen(asked, timeout=10).status == 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_service_is_called_by_name_and_its_errors_arrive_as_they_are(running: session.Session) -> None:
    greeter = _greeter("greeter:here")
    assert greeter.call("greet", "edge") == "hello edge"
    found = placement.find("greeter:here")
    assert found is not None
    assert found.call("gauges")["asked"] == 1
    with pytest.raises(NetGPTError, match=r"^not today$"):
        found.call("refuse")
    with pytest.raises(BadConfig, match="greeter:here already runs"):
        placement.spawn(Spec("greeter:here", "Greeter", lambda: Greeter(0)))
    assert "greeter:here" in [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    greeter.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_start_that_fails_says_why(running: session.Session) -> None:
    broken = placement.spawn(Spec("broken", "Broken", lambda: Greeter(0, fail="site.port: taken")))
    with pytest.raises(BadConfig, match=r"^site\.port: taken$"):
        broken.ready(60)
    broken.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_service_comes_back_on_its_port(running: session.Session) -> None:
    greeter = _greeter("mortal")
    before = greeter.ready(60)
    psutil.Process(before["pid"]).kill()
    after = _patiently(greeter)
    assert after["pid"] != before["pid"]
    assert after["port"] == before["port"]
    greeter.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_service_whose_port_is_taken_meanwhile_comes_back_when_it_is_free(running: session.Session) -> None:
    greeter = _greeter("robbed")
    info = greeter.ready(60)
    psutil.Process(info["pid"]).kill()
    with _taken(info["port"]):
        time.sleep(4.0)
        with pytest.raises((NetGPTError, OSError)):
            greeter.call("info", timeout_s=1.0)
    assert _patiently(greeter)["port"] == info["port"]
    greeter.end()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_stopped_session_leaves_no_process_and_no_port(running: session.Session, before: set[int]) -> None:
    greeter = _greeter("last")
    port = greeter.ready(60)["port"]
    theirs = [p.pid for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert theirs
    running.stop()
    running.stop()  # twice does no harm
    left = [p for p in theirs if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
    assert left == []
    session.check_port("site.port", "127.0.0.1", port)


def _greeter(name: str) -> Placed:
    port = session.free_port()
    greeter = placement.spawn(Spec(name, "Greeter", lambda: Greeter(port), resource="site:here"))
    greeter.ready(60)
    return greeter


def _taken(port: int) -> socket.socket:
    """The port, as soon as nobody has it."""
    for _ in range(1000):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            time.sleep(0.001)
    raise AssertionError("it does not fall free")


def _patiently(greeter: Placed) -> dict[str, object]:
    for _ in range(100):
        try:
            info: dict[str, object] = greeter.call("info")
        except NetGPTError:
            continue
        return info
    raise AssertionError("it did not come back")
