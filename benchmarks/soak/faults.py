"""The faults, each caused for real: processes killed with -9, the emulated link cut, weights swapped, a disk filled.

``Faults.cause`` does one and returns when it is over: a killed site answers again, a router is found again, a link is
whole again. A cloud replica is not waited for, it takes longer than the pause to the next fault.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from actors.model_store import MANIFEST, ModelStore, ModelVersion
from cluster import placement
from cluster.link_emulator import LinkSpec
from orchestrator.system import ROUTER, System
from policies.errors import NetGPTError

SITE = "killed: site"
SITE_TITLE, ROUTER_TITLE, CLOUD_TITLE = "ray::EdgeSite", "ray::Router", "ray::ServeReplica:cloud:LLMServer:cloud"
WIDE = LinkSpec("wide", up=50e6, down=100e6, delay_ms=5.0)
OUTAGE_S, FLAPS, FLAP_S = 5.0, 8, 0.3
FULL_S = 5.0
BACK_S = 60.0
DISK_BYTES = 512 << 20  # a record is some kilobytes, and ten minutes are some tens of thousands


@dataclass(frozen=True, slots=True)
class Fault:
    """One that was caused: when, until when it was felt, and whether it went as it should; ``shed`` by a killed log."""

    kind: str
    began_s: float
    over_s: float
    well: bool = True
    shed: float = 0.0


class Faults:
    """What can be done to ``system``; ``disk`` is the file system of its log, None where none could be mounted."""

    def __init__(self, system: System, disk: Path | None, scratch: Path) -> None:
        self._system, self._disk, self._scratch = system, disk, scratch
        self._damaged = 0
        first = system.store.read(system.releases.state.live)
        self._versions = [first, published(system.store, first, scratch / "second")]
        full = {"full log disk": self._full_disk} if disk else {}
        self.kinds: dict[str, Callable[[], bool]] = {
            SITE: self._kill_site,
            "killed: router": self._kill_router,
            "killed: cloud replica": self._kill_cloud,
            "link outage": self._outage,
            "flapping link": self._flapping,
            "hot swap": self._swap,
            "damaged swap": self._swap_damaged,
            **full,
        }

    def cause(self, kind: str) -> Fault:
        """Do it, and wait until it is over."""
        shed = self.shed if kind == SITE else 0.0
        began_s = time.monotonic()
        well = self.kinds[kind]()
        return Fault(kind, began_s, time.monotonic(), well, shed)

    @property
    def shed(self) -> float:
        """Records that the log of the present process has shed."""
        return self._system.gauges()["log_shed"]

    def _kill_site(self) -> bool:
        return kill(SITE_TITLE) and _soon(lambda: _answers(self._system.urls.endpoint.removesuffix("/v1") + "/readyz"))

    def _kill_router(self) -> bool:
        return kill(ROUTER_TITLE) and _soon(self._router_knows_the_site)

    def _kill_cloud(self) -> bool:
        return kill(CLOUD_TITLE)

    def _router_knows_the_site(self) -> bool:
        router = placement.find(ROUTER)
        try:
            return router is not None and self._system.config.site.name in router.call("sites")
        except NetGPTError:
            return False

    def _outage(self) -> bool:
        self._system.set_link(replace(WIDE, outage=True))
        time.sleep(OUTAGE_S)
        self._system.set_link(WIDE)
        return True

    def _flapping(self) -> bool:
        for n in range(2 * FLAPS):
            self._system.set_link(replace(WIDE, outage=n % 2 == 0))
            time.sleep(FLAP_S)
        return True

    def _swap(self) -> bool:
        self._versions.reverse()
        try:
            return self._system.swap(self._versions[0]).outcome == "live"
        except NetGPTError:
            return False

    def _swap_damaged(self) -> bool:
        """Well is: refused by its checksum, and what was live still is."""
        self._damaged += 1
        live = self._system.store.read(self._system.releases.state.live)
        version = published(self._system.store, live, self._scratch / f"damaged-{self._damaged}")
        (version.path / "model.safetensors").write_bytes(b"not what it was")
        try:
            self._system.swap(version)
        except NetGPTError as why:
            return "checksum" in str(why) and self._system.site_info()["version"] == live.version
        return False

    def _full_disk(self) -> bool:
        assert self._disk is not None
        filler = self._disk / "filler"
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(size))
        errors = self._system.gauges()["log_write_errors"]
        time.sleep(FULL_S)
        failed = self._system.gauges()["log_write_errors"] > errors
        filler.unlink()
        return failed


@contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """A file system of its own at ``directory``; None where mounting is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def kill(title: str) -> bool:
    """kill -9 the process of that title below this one; False where there is none now."""
    found = [child for child in psutil.Process().children(recursive=True) if title_of(child) == title]
    for child in found:
        child.kill()
    return bool(found)


def title_of(process: psutil.Process) -> str:
    """Ray writes what a worker is into its command line, padded, and for a moment the method it runs."""
    try:
        return " ".join(process.cmdline()).strip().partition(".")[0]
    except psutil.Error:
        return ""


def published(store: ModelStore, live: ModelVersion, directory: Path) -> ModelVersion:
    """The weights of ``live`` under another name."""
    shutil.copytree(live.path, directory, ignore=shutil.ignore_patterns(MANIFEST))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | {"note": directory.name}), encoding="utf-8")
    return store.publish(directory, "edge", live.version, {})


def _soon(happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        if happens():
            return True
        time.sleep(0.1)
    return False


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
