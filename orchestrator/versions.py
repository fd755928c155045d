"""Which weights the edge starts with: what was live last, if it descends from the configured model.

A scorer that was fitted for it since comes with it. A configured model that the store does not know yet (or knows with
other content) is published first, so that everything that ever runs at the edge is a version of the store, and a
restart continues with what was learned. What was rolled back does not come back by itself.
"""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from actors.model_store import ModelStore, ModelVersion, digest_of, digests
from actors.swap import Weights
from policies.errors import EngineError, StoreError

log = logging.getLogger(__name__)

KIND = "edge"
SCORER = "scorer"  # in a version's meta: it is its parent's weights with this scorer (netgpt train scorer)
BASE = "base"  # in a version's meta: it is the configured model itself, under that name
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def first_version(store: ModelStore, model: str) -> ModelVersion:
    """The version to start with.

    Args:
        model: a model directory or a Hugging Face id.

    Raises:
        EngineError: the model cannot be fetched.
        StoreError: the store cannot be read or written.
    """
    directory = model_directory(model)
    bases = [version for version in store.list(KIND) if BASE in version.meta]
    resumed = last_live(store)
    if resumed is not None and (not bases or _same(bases[-1], model, directory)):
        return store.get(resumed.version)
    log.info("publishing %s as the first version of the edge model", model)
    return store.publish(directory, KIND, meta={BASE: model})


def last_live(store: ModelStore, site: str | None = None) -> ModelVersion | None:
    """What ran last, with the newest scorer that was fitted for it since; the newest version where nothing ever ran.

    Args:
        site: whose; by default what is live for every site that has no version of its own.

    Raises:
        StoreError: the store cannot be read.
    """
    release, versions = store.release, store.list(KIND)
    refused = release.refused if release else ()
    left = [version for version in versions if version.version not in refused and version.site in (None, site)]
    live = next((version for version in versions if release and version.version == release.of(site)), None)
    if live is None:
        return left[-1] if left else None
    for version in left:  # by number: each may add to the one before
        if SCORER in version.meta and version.parent == live.version:
            live = version
    return live


def live_weights(store: ModelStore) -> Weights:
    """What is live now, checked; a site whose own version or canary is another is told so by the router.

    Raises:
        StoreError: nothing ever ran here, or it is gone or damaged.
    """
    if (release := store.release) is None:
        raise StoreError(f"{store.root}: no version of the edge model is live here")
    version = store.get(release.live)
    return Weights(version.version, version.path)


def model_directory(model: str) -> Path:
    """Where the files of ``model`` are; a Hugging Face id is fetched (or found in the cache).

    Raises:
        EngineError: names the id and why it cannot be had.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as why:
        reason = str(why).splitlines()[0]
        raise EngineError(f"{model}: neither a directory nor to be had from Hugging Face: {reason}") from None


def _same(base: ModelVersion, model: str, directory: Path) -> bool:
    """Whether ``base`` was published from this model; the same name with other content is another one."""
    if base.meta[BASE] != model:
        return False
    visible = {name: digest for name, digest in digests(directory).items() if not name.startswith(".")}
    return digest_of(visible) == base.sha256
