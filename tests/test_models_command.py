"""``netgpt models``: what it says of a store, whole or damaged, and what it asks of a system that runs."""

from __future__ import annotations

import json
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from test_cli import netgpt, one_sentence
from test_releases import OneSite

from actors.adapter_base import write_base
from actors.model_store import ModelStore, ModelVersion
from orchestrator import control, run_file
from orchestrator.config import default_config
from orchestrator.models import compared, listed, shown
from orchestrator.releases import Releases
from orchestrator.serving import orders
from orchestrator.weight_distance import distances
from policies.errors import NetGPTError, StoreError

META = {
    "log": {"north": [0, 420], "south": [7, 90]},
    "samples": 312,
    "anchors": 40,
    "poisoned": {"answer unparsable": 2},
    "options": {"steps": 200, "lr": 0.0015},
    "gate": {"reason": "success gain", "gain": 0.04, "gain_low": 0.01, "gain_high": 0.07, "base_valid": 1.0},
    "training": {"loss": 0.125},
    "refits": {"scorer": "fitted on 300"},
}
Arrays = dict[str, tuple[str, np.ndarray]]


def safetensors(path: Path, arrays: Arrays) -> None:
    header, start = {}, 0
    for name, (dtype, array) in arrays.items():
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, a in arrays.values()))


def weights(scale: float) -> Arrays:
    head = np.full(4, scale, np.float32)
    return {
        "sa.weight": ("F32", np.ones((2, 3), np.float32)),
        "half": ("F16", np.full(5, scale, np.float16)),
        "brain": ("BF16", (head.view(np.uint32) >> 16).astype(np.uint16)),
        "ids": ("I64", np.arange(3)),
    }


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store, parent = ModelStore(tmp_path / "var" / "models"), None
    metas: list[dict[str, object]] = [{"base": "bundled:edge"}, META, {**META, "options": {"steps": 300, "lr": 0.0015}}]
    for number, meta in enumerate(metas):
        source = tmp_path / f"src-{number}"
        source.mkdir()
        (source / "config.json").write_text("{}")
        (source / f"only-{number}.json").write_text("{}")
        safetensors(source / "model.safetensors", weights(1.0 + number))
        parent = store.publish(source, parent=parent.version if parent else None, meta=meta)
    return store


@pytest.fixture
def versions(store: ModelStore) -> list[ModelVersion]:
    return store.list()


@pytest.fixture
def serving(tmp_path: Path, store: ModelStore, versions: list[ModelVersion]) -> Iterator[Releases]:
    """What a system that serves does for ``netgpt models``, with a fleet that loads nothing."""
    config = default_config(var=str(tmp_path / "var"))
    releases = Releases(store, OneSite(store, config.site.name), config.site.name)
    releases.start(versions[0].version)
    with control.listening(config.control_file, orders(SimpleNamespace(releases=releases, store=store, config=config))):
        yield releases


def configured(tmp_path: Path) -> list[str]:
    (tmp_path / "site.yaml").write_text(f"var: {tmp_path / 'var'}\n")
    return ["-c", str(tmp_path / "site.yaml")]


def test_the_list_shows_lineage_size_samples_gain_and_what_is_live(
    store: ModelStore, versions: list[ModelVersion], serving: Releases
) -> None:
    head, one, two, _ = listed(store)
    assert head.split() == ["version", "state", "published", "size", "samples", "gain", "site", "parent"]
    assert one.split()[:2] == [versions[0].version, "live"]
    assert "312" in two and "+4.0 [+1.0, +7.0] points" in two and two.endswith(versions[0].version)


def test_the_list_goes_on_past_a_version_that_is_damaged(store: ModelStore, versions: list[ModelVersion]) -> None:
    (versions[1].path / "MANIFEST.json").write_text("{")
    _, one, two, three = listed(store)
    assert two.split()[:2] == [versions[1].version, "damaged"]
    assert "damaged" not in one + three


def test_an_empty_store_and_an_unknown_version_are_one_sentence(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert "holds no version of the edge model. Fix:" in one_sentence(netgpt("models", "list", *config))
    for name in ("edge-0001-00000000", "../../etc", "edge-0001-00000000/../x", ""):
        assert "version" in one_sentence(netgpt("models", "show", name, *config))


def test_a_version_tells_its_whole_lineage(store: ModelStore, versions: list[ModelVersion]) -> None:
    text = "\n".join(shown(store, versions[2].version))
    for words in (
        f"{versions[1].version} <- {versions[0].version}",
        "site north, records 0 to 420",
        "site south, records 7 to 90",
        "samples     312",
        "poisoned    answer unparsable: 2",
        "options     steps: 300",
        "gate        gain_low: 0.01",
        "training    loss: 0.125",
        "refits      scorer: fitted on 300",
        "all as published",
    ):
        assert words in text


def test_a_damaged_version_is_shown_as_such_and_a_gone_parent_too(
    store: ModelStore, versions: list[ModelVersion]
) -> None:
    (versions[2].path / "model.safetensors").write_bytes(b"")
    (versions[0].path / "MANIFEST.json").unlink()
    text = "\n".join(shown(store, versions[2].version))
    assert "damaged: " in text and "model.safetensors: fails its checksum" in text
    assert f"{versions[0].version} (no longer in the store)" in text


@pytest.mark.parametrize("meta", [{"log": 3, "gate": [], "options": None}, {"gate": {"gain": "much"}}, {"x": {"y": 1}}])
def test_a_meta_of_any_shape_can_be_shown(store: ModelStore, versions: list[ModelVersion], meta: object) -> None:
    version = store.publish(versions[0].path, meta=meta)  # type: ignore[arg-type]
    assert any("sha256" in line for line in shown(store, version.version))
    assert len(list(listed(store))) == 5


def test_a_diff_says_what_changed_in_options_files_and_weights(store: ModelStore, versions: list[ModelVersion]) -> None:
    lines = list(compared(store, versions[1].version, versions[2].version))
    assert "options   steps: 200 -> 300" in lines and "gate      the same" in lines
    assert "files     only-1.json: removed" in lines and "files     only-2.json: added" in lines
    assert "weights   1 of 3 tensors the same" in lines  # ids are no weights
    assert "weights   half: moved by 50.00% of its norm" in lines
    assert "weights   brain: moved by 50.00% of its norm" in lines


def test_a_diff_refuses_a_damaged_version(store: ModelStore, versions: list[ModelVersion]) -> None:
    (versions[1].path / "model.safetensors").write_bytes(b"rotten")
    with pytest.raises(StoreError, match="fails its checksum: the file is changed"):
        list(compared(store, versions[0].version, versions[1].version))


@pytest.mark.parametrize("content", [b"", b"rotten", b"\xff" * 64, struct.pack("<Q", 2) + b"[]", b"\x02" + b"\0" * 7])
def test_weights_in_no_format_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match="not in the safetensors format"):
        list(distances(tmp_path, tmp_path))


def test_tensors_that_came_went_or_changed_shape_are_said(tmp_path: Path) -> None:
    for name, arrays in (
        ("a", {"x": ("F32", np.ones(2, np.float32)), "old": ("F32", np.ones(1, np.float32))}),
        ("b", {"x": ("F32", np.ones(3, np.float32)), "new": ("F32", np.ones(1, np.float32))}),
    ):
        (tmp_path / name).mkdir()
        safetensors(tmp_path / name / "model.safetensors", arrays)
    lines = list(distances(tmp_path / "a", tmp_path / "b"))
    assert "weights   new: added" in lines and "weights   old: removed" in lines
    assert "weights   x: of another shape, or was 0" in lines


def test_promote_and_rollback_move_the_running_system(
    tmp_path: Path, versions: list[ModelVersion], serving: Releases
) -> None:
    config = configured(tmp_path)
    done = netgpt("models", "promote", versions[2].version, *config)
    assert done.returncode == 0 and f"{versions[2].version} is live at local" in done.stdout
    assert serving.state.live == versions[2].version
    done = netgpt("models", "rollback", *config)
    assert f"{versions[1].version} is live again" in done.stdout
    assert "refused" in netgpt("models", "list", *config).stdout


def test_a_damaged_or_unknown_version_is_never_promoted(
    tmp_path: Path, versions: list[ModelVersion], serving: Releases
) -> None:
    (versions[1].path / "model.safetensors").write_bytes(b"rotten")
    config = configured(tmp_path)
    for name, why in ((versions[1].version, "fails its checksum"), ("edge-0009-00000000", "holds no model version")):
        assert why in one_sentence(netgpt("models", "promote", name, *config))
    assert serving.state.live == versions[0].version
    assert "has no parent" in one_sentence(netgpt("models", "rollback", *config))


@pytest.fixture
def adapter(tmp_path: Path, store: ModelStore, versions: list[ModelVersion]) -> ModelVersion:
    """Of the first version, for the site south: it adds 2 x [[1], [0]] [1, 0, 0] to ``same``, which is all ones."""
    source = tmp_path / "adapter"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 2}))
    factors = {"A": np.array([[1, 0, 0]], np.float32), "B": np.array([[1], [0]], np.float32)}
    named = {f"base_model.model.sa.lora_{name}.weight": ("F32", array) for name, array in factors.items()}
    safetensors(source / "adapter_model.safetensors", named)
    write_base(source, versions[0].path)
    return store.publish(source, parent=versions[0].version, meta={"site": "south"})


def test_a_version_of_one_site_shows_its_site_and_its_base(
    tmp_path: Path, store: ModelStore, versions: list[ModelVersion], adapter: ModelVersion, serving: Releases
) -> None:
    config = configured(tmp_path)
    done = netgpt("models", "promote", adapter.version, *config)
    assert f"{adapter.version} is live at south" in done.stdout, done
    assert (serving.state.live, serving.state.of("south")) == (versions[0].version, adapter.version)
    row = list(listed(store))[-1].split()
    assert row[:2] == [adapter.version, "live"] and row[-2:] == ["south", versions[0].version]
    text = "\n".join(shown(store, adapter.version))
    for words in ("live at south", f"adapter of  {versions[0].version}", "site        south", " at south: netgpt"):
        assert words in text
    done = netgpt("models", "rollback", "--site", "south", *config)
    assert f"{versions[0].version} is live again at south" in done.stdout
    assert "has no version of its own" in one_sentence(netgpt("models", "rollback", "--site", "south", *config))


def test_an_adapter_is_compared_as_its_base_with_its_changes(
    store: ModelStore, versions: list[ModelVersion], adapter: ModelVersion
) -> None:
    lines = list(compared(store, versions[0].version, adapter.version))
    assert "weights   2 of 3 tensors the same" in lines
    assert f"weights   sa.weight: moved by {2 / 6**0.5:.2%} of its norm" in lines


def test_concurrent_promotions_all_get_an_answer_and_the_last_one_is_live(
    tmp_path: Path, versions: list[ModelVersion], serving: Releases
) -> None:
    path, said = default_config(var=str(tmp_path / "var")).control_file, []
    threads = [
        threading.Thread(target=lambda v=version: said.append(control.send(path, "promote", v.version)))
        for version in versions[1:] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 8 and serving.state.live == serving.state.moves[-1].version


def test_without_a_running_system_promote_and_rollback_say_so(tmp_path: Path) -> None:
    config = configured(tmp_path)
    for command in (["promote", "edge-0001-00000000"], ["rollback"]):
        assert "no system runs here" in one_sentence(netgpt("models", *command, *config))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run_file.write(tmp_path / "var" / "control.json", {"pid": gone.pid, "port": 1, "token": "x"})
    assert "has ended" in one_sentence(netgpt("models", "rollback", *config))


def test_orders_need_the_token_that_only_the_owner_can_read(tmp_path: Path) -> None:
    path, done = tmp_path / "control.json", []
    with control.listening(path, {"promote": lambda word: done.append(word) or "done"}):  # type: ignore[func-returns-value]
        found = json.loads(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        url, right = f"http://127.0.0.1:{found['port']}/promote", {"Authorization": f"Bearer {found['token']}"}
        for headers in ({}, {b"Authorization": b"Bearer x"}, {b"Authorization": b"Bearer \xe9"}):
            assert httpx.post(url, json={"word": "x"}, headers=headers).status_code == 401
        for content in (b"", b"[]", b"{", b'{"word": 1' + b" " * 5000):
            assert httpx.post(url, content=content, headers=right).status_code == 409
        assert httpx.post(url + "x", json={"word": "x"}, headers=right).status_code == 404
        assert done == [] and control.send(path, "promote", "v") == "done"
    assert not path.exists()
    with pytest.raises(NetGPTError, match="no system runs here"):
        control.send(path, "promote", "v")


WATCH = """
import sys
sys.argv = ["netgpt", *sys.argv[1:]]
from orchestrator.cli import main
try:
    main()
finally:
    heavy = {"ray", "torch", "vllm", "transformers", "grpc", "pyarrow"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_nothing_that_only_reads_imports_ray_or_torch(tmp_path: Path, versions: list[ModelVersion]) -> None:
    names = [version.version for version in versions]
    for command in (["list"], ["show", names[1]], ["diff", *names[:2]]):
        arguments = ["models", *command, *configured(tmp_path)]
        done = subprocess.run(
            [sys.executable, "-c", WATCH, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 and names[1] in done.stdout, done.stderr
