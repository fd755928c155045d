"""``netgpt train scorer``: from an offload log to a scorer for the newest edge version, published with its weights.

Learnt from the requests whose cloud answer is known and whose draft that version made. The split is by question, so
what the reward model learns from never calibrates it. The scorer belongs to the weights: a version is the parent's
files with one more, published whole; the next start of ``netgpt serve`` runs it. Other scores ask for another
threshold, so one of a fitted kind is fitted anew with it. A training round does the same for its candidate.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from actors.adapter_base import base_of, write_base
from actors.log_record import OffloadRecord, from_table
from actors.model_store import MANIFEST, ModelStore, ModelVersion
from actors.offload_log import read_log
from actors.training import Draft
from orchestrator.config import Config
from orchestrator.lessons import LABEL_WEIGHT_CAP, readable
from orchestrator.own_threshold import FITTED, THRESHOLD_FILE
from orchestrator.refit import Known, fit_for, fit_threshold, tried
from orchestrator.screening import said, screen
from orchestrator.versions import SCORER, last_live
from policies.errors import BadConfig


def train_scorer(kind: str, config: Config, console: Console) -> ModelVersion:
    """Fit ``kind`` and publish it.

    Raises:
        BadConfig: there is no version to fit it for, too little to learn from, all drafts agree with the cloud or
            none does, or there is no such kind.
        LogError, StoreError: log or store cannot be read or written.
    """
    store = ModelStore(config.store_dir)
    parent = last_live(store)  # after a roll-back not the newest
    if parent is None:
        raise BadConfig(f"{config.store_dir}: it holds no edge version. Fix: run netgpt serve with this configuration")
    table, left_out = screen(read_log(config.log_dir), time.time_ns() // 1000)
    if left_out:
        console.print(said(left_out), markup=False, highlight=False)
    records = from_table(table)
    known = labelled(records, same_weights(store, parent))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "version"
        others = shutil.ignore_patterns(MANIFEST, THRESHOLD_FILE)
        shutil.copytree(store.get(parent.version).path, directory, ignore=others)
        if base := base_of(parent.path):
            write_base(directory, base.path.absolute())
        refits = {"scorer": fit_for(kind, directory, known)}
        if config.policy.kind in FITTED:
            chosen = config.policy.model_copy(update={"scorer": kind})
            served = config.model_copy(update={"policy": chosen})
            refits["threshold"] = tried("threshold", lambda: fit_threshold(served, directory, known, records))
        meta = {SCORER: kind, "labelled": len(known), "refits": refits}
        version = store.publish(directory, "edge", parent.version, meta)
    for name, outcome in refits.items():
        console.print(f"{version.version}, {name}: {outcome}")
    console.print("Start netgpt serve anew")
    return version


def same_weights(store: ModelStore, version: ModelVersion) -> set[str]:
    """The version, and those before it whose weights it took over when a scorer was added."""
    known = {one.version: one for one in store.list("edge")}
    found = {version.version}
    while SCORER in version.meta and version.parent in known:
        version = known[version.parent]
        found.add(version.version)
    return found


def labelled(records: Sequence[OffloadRecord], versions: Collection[str]) -> list[Known]:
    """Valid drafts of ``versions`` with the cloud's answer."""
    cases, _ = readable(records)
    usable = (case for case in cases if case.cloud and case.record.draft_version in versions and case.record.draft)
    return [
        Known(case, Draft(draft, case.record.draft_logprobs), case.right(draft), min(case.weight, LABEL_WEIGHT_CAP))
        for case in usable
        if case.record.draft_error is None and (draft := case.record.draft)
    ]
