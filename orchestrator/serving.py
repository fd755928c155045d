"""``netgpt serve`` and ``netgpt status``: a system in the foreground, and a look at it from outside.

``serve`` holds a system until SIGINT or SIGTERM; ``status`` reads its run file and asks the site's endpoint whether
it is ready.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from actors.model_store import ModelStore
from orchestrator import control, hosting, run_file
from orchestrator.config import Config
from policies.errors import NetGPTError
from policies.release import Release

READY_S = 3.0
Say = Callable[[str], None]


def serve(config: Config, say: Say, build: hosting.Build = hosting.real) -> None:
    """Run a system until a signal asks it to end.

    Args:
        say: shows a line to the user.

    Raises:
        NetGPTError: it could not be started; nothing is left behind.
    """

    def work(system: Any, urls: Any) -> None:
        for line in welcome(config, urls):
            say(line)
        with system.improving(), control.listening(config.control_file, orders(system)):
            hosting.sleep_forever()

    check_policy(config)
    hosting.hold(config, lambda stage, words: say(f"  {stage:<7}{words}"), work, lambda: say("stopping"), build)


def orders(system: Any) -> control.Orders:
    """What ``netgpt models`` may ask of a running ``System``."""

    def promote(version: str) -> str:
        found = system.store.get(version)
        report = system.releases.promote(found, "netgpt models promote")
        if found.site:
            return f"{version} is live at {found.site} (before: {report.previous}), which it was made for"
        return f"{version} is live at {system.config.site.name} (before: {report.previous}); other sites follow"

    def rollback(site: str) -> str:
        if site:
            return f"{system.releases.take_back(site, 'netgpt models rollback')} is live again at {site}"
        return f"{system.releases.roll_back('netgpt models rollback')} is live again"

    return {"promote": promote, "rollback": rollback}


def check_policy(config: Config) -> None:
    """Refuse a policy file that no weights could use now, rather than when the site reads it, minutes later.

    Raises:
        BadConfig: names the file, the key and the fix.
    """
    from policies.policy_file import load_policy  # noqa: PLC0415  (status has to do without numpy)
    from policies.threshold import ThresholdInputs, build_threshold  # noqa: PLC0415

    policy = config.policy
    if policy.file is not None:
        fitted = load_policy(policy.file, None)
        build_threshold(policy.kind, ThresholdInputs(policy.objective, policy.speed, fitted=fitted))


def welcome(config: Config, urls: Any) -> Iterator[str]:
    """Lines that say where a running system is and how to use it."""
    yield f"serving {config.site.served_model} at {urls.endpoint} (OpenAI-compatible)"
    yield f"  cloud      {urls.cloud}"
    yield f"  router     {urls.router} (gRPC)"
    yield f"  dashboard  {urls.dashboard} (log in with the token {urls.token})"
    yield f'  try        netgpt ask "..." --url {urls.endpoint}'
    yield "  stop       Ctrl-C"


def status(config: Config) -> Iterator[str]:
    """Lines about the running system.

    Raises:
        NetGPTError: none runs, or its endpoint does not answer.
    """
    record = run_file.read(config.run_file)
    gauges = record["gauges"]
    yield f"endpoint    {record['endpoint']}  ({_ready(record['endpoint'], config)})"
    yield f"model       {record['model']}, edge version {record['site'].get('version', '?')}"
    yield f"policy      {record['site'].get('policy', '?')}"
    yield from learning(ModelStore(config.store_dir).release, gauges, config.learner.enabled)
    yield f"requests    edge {gauges.get('requests_edge', 0):.0f}, cloud {gauges.get('requests_cloud', 0):.0f}"
    yield f"last        score {gauges.get('score', 0):.3f} against threshold {gauges.get('threshold', 0):.3f}"
    yield f"link        {_link(gauges)}"
    yield f"limits      {limits(gauges)}"
    yield f"cost        {gauges.get('cost_usd', 0):.4f} USD"
    yield f"log         {gauges.get('log_lag', 0):.0f} records not yet durable"
    yield f"cloud       {record['cloud']}"
    yield f"dashboard   {record['dashboard']}  (log in with the token {record['token']})"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["started"]))
    yield f"up since    {since} (process {record['pid']})"


def learning(release: Release | None, gauges: Mapping[str, float], enabled: bool) -> Iterator[str]:
    """Which versions run, what is known of the newest, and what the learner waits for."""
    if release is None:
        return
    labels, evidence = gauges.get("canary_labels", 0.0), gauges.get("canary_evidence", 0.0)
    told = f"{labels:.0f} labels, {evidence:.0%} of the evidence to roll back"
    if release.canary:
        yield f"live        {release.live}"
        yield f"canary      {release.canary.version} on {release.canary.site}: {told}"
    else:
        watched = f", compared with {release.previous}: {told}" if "canary_labels" in gauges else ""
        yield f"live        {release.live}{watched}"
    for site, own in release.personal.items():
        yield f"own         {own.version} at {site}"
    move = release.moves[-1]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(move.time_us / 1e6))
    yield f"last move   {at} {move.what} {move.version}: {move.why}"
    if "learner_labels" in gauges:
        doing = "a round runs" if gauges["learner_training"] else f"{gauges['learner_labels']:.0f} new labels"
        yield f"learner     {doing if enabled else 'off (learner.enabled)'}"


def limits(gauges: Mapping[str, float]) -> str:
    """What stands around the threshold now, in words."""
    found = ["drift is suspected"] if gauges.get("drift_alarm") else []
    if floor := gauges.get("threshold_floor", 0.0):
        found.append(f"the threshold is at least {floor:.2f}")
    if (left := gauges.get("budget_left", 1.0)) < 1.0:
        found.append(f"{left:.0%} of the cap is left")
    if clamped := gauges.get("inputs_clamped", 0.0):
        found.append(f"{clamped:.0f} figures lie outside what the threshold was fitted on")
    return ", ".join(found) or "none in force"


def _ready(endpoint: str, config: Config) -> str:
    url = endpoint.removesuffix("/v1") + "/readyz"
    trusted = ssl.create_default_context()
    if config.site.tls_cert is not None:
        trusted.load_verify_locations(config.site.tls_cert)
    try:
        answer = httpx.get(url, timeout=READY_S, verify=trusted)
    except httpx.HTTPError as why:
        raise NetGPTError(f"the system runs, but {url} does not answer: {why}") from None
    return "ready" if answer.is_success else f"not ready: {answer.status_code}"


def _link(gauges: dict[str, float]) -> str:
    if not gauges.get("link_up", 1.0):
        return "down"
    up, down = gauges.get("link_up_bps", 0.0) / 1e6, gauges.get("link_down_bps", 0.0) / 1e6
    return f"rtt {gauges.get('link_rtt_ms', 0):.0f} ms, up {up:.1f} Mbit/s, down {down:.1f} Mbit/s"
