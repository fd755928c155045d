"""``netgpt train scorer``: from an offload log to a scorer for the newest edge version, published with its weights.

Learnt from the requests whose cloud answer is known and whose draft that version made. The split is by question, so
what the reward model learns from never calibrates it. The scorer belongs to the weights: a version is the parent's
files with one more, published whole; the next start of ``netgpt serve`` runs it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from actors.chat import ChatRequest
from actors.engine import Completion
from actors.log_record import OffloadRecord, from_table
from actors.model_store import ModelStore, ModelVersion
from actors.offload_log import read_log
from actors.scorer import Proposal
from actors.scorers import Evidence, Labelled, fit_scorer, scorer_file
from orchestrator.config import Config
from orchestrator.lessons import LABEL_WEIGHT_CAP, Case, held_out, readable
from policies.errors import BadConfig
from policies.toolcalls import parse

HELD_OUT = 0.5  # a calibration needs as many labels as the reward model
SCORER = "scorer"  # in a version's meta: it is its parent's weights with this scorer
MIN_LABELLED = 60  # half of them calibrate: fewer would follow noise


def train_scorer(kind: str, config: Config, console: Console) -> ModelVersion:
    """Fit ``kind`` and publish it.

    Raises:
        BadConfig: there is no version to fit it for, too little to learn from, or no such kind.
        LogError, StoreError: log or store cannot be read or written.
    """
    store = ModelStore(config.store_dir)
    parent = store.latest("edge")
    if parent is None:
        raise BadConfig(f"{config.store_dir}: it holds no edge version. Fix: run netgpt serve with this configuration")
    examples = labelled(from_table(read_log(config.log_dir)), same_weights(store, parent))
    if len(examples) < MIN_LABELLED:
        raise BadConfig(
            f"{config.log_dir}: {len(examples)} drafts of {parent.version} have the cloud's answer, {MIN_LABELLED} are "
            f"needed. Fix: serve on, or raise site.audit_rate"
        )
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "version"
        shutil.copytree(store.get(parent.version).path, directory, ignore=shutil.ignore_patterns("MANIFEST.json"))
        evidence = Evidence(directory, *_split(examples))
        if kind == "ensemble" and not scorer_file(directory, "preference").exists():
            _fit("preference", evidence)
        _fit(kind, evidence)
        version = store.publish(directory, "edge", parent.version, {SCORER: kind, "labelled": len(examples)})
    console.print(f"{version.version}: {kind}, fitted on {len(examples)} answers of the cloud. Start netgpt serve anew")
    return version


def same_weights(store: ModelStore, version: ModelVersion) -> set[str]:
    """The version, and those before it whose weights it took over when a scorer was added."""
    known = {one.version: one for one in store.list("edge")}
    found = {version.version}
    while SCORER in version.meta and version.parent in known:
        version = known[version.parent]
        found.add(version.version)
    return found


def labelled(records: Sequence[OffloadRecord], versions: Collection[str]) -> list[tuple[str, Labelled]]:
    """Drafts of ``versions`` with the cloud's answer, each with the hash of its question."""
    cases, _ = readable(records)
    usable = (case for case in cases if case.cloud and case.record.draft_version in versions and case.record.draft)
    return [(case.record.request_hash, _labelled(case)) for case in usable if case.record.draft_error is None]


def _labelled(case: Case) -> Labelled:
    record = case.record
    parsed, logprobs = parse(record.draft), tuple(record.draft_logprobs)
    proposal = Proposal(Completion(record.draft, logprobs, "stop", len(logprobs)), parsed, True)
    prompt = ChatRequest(case.messages, case.tools).prompt
    return Labelled(prompt, [proposal], str(record.cloud), min(case.weight, LABEL_WEIGHT_CAP))


def _split(examples: Sequence[tuple[str, Labelled]]) -> tuple[list[Labelled], list[Labelled]]:
    training = [one for question, one in examples if not held_out(question, HELD_OUT)]
    return training, [one for question, one in examples if held_out(question, HELD_OUT)]


def _fit(kind: str, evidence: Evidence) -> None:
    try:
        fit_scorer(kind, evidence)
    except ValueError as why:
        raise BadConfig(f"{kind} cannot be fitted: {why}. Fix: serve on until the log says more") from why
