"""The model store: whole or not at all, numbered upwards, checked."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from actors import model_store
from actors.adapter_base import ADAPTER_FILE, whole, write_base
from actors.model_store import MANIFEST, ModelStore, verify
from policies.errors import StoreError


def model_dir(path: Path, content: str = "weights") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(content)
    (path / "sub").mkdir(exist_ok=True)
    (path / "sub" / "more.txt").write_text("x")
    return path


def test_a_version_carries_its_files_parent_and_meta(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    first = store.publish(model_dir(tmp_path / "src"))
    second = store.publish(model_dir(tmp_path / "src", "better"), parent=first.version, meta={"seqs": [0, 9]})
    assert first.version == f"edge-0001-{first.sha256[:8]}"
    assert (second.number, second.parent, second.meta) == (2, first.version, {"seqs": [0, 9]})
    assert (second.path / "model.safetensors").read_text() == "better"
    assert store.get(first.version) == first and store.latest() == second
    assert [v.number for v in store.list()] == [1, 2] and store.list("cloud") == []
    assert pickle.loads(pickle.dumps(second)) == second


def test_an_empty_store_has_no_latest_version(tmp_path: Path) -> None:
    assert ModelStore(tmp_path / "none").latest() is None


def test_the_same_files_have_the_same_checksum_and_another_number(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    one, two = (store.publish(model_dir(tmp_path / "src")) for _ in range(2))
    assert one.sha256 == two.sha256 and (one.number, two.number) == (1, 2)
    again = store.publish(one.path, kind="cloud")
    assert (again.number, again.sha256) == (1, one.sha256)


@pytest.mark.parametrize(
    ("name", "change", "state"),
    [
        ("model.safetensors", lambda p: p.write_text("weightz"), "changed"),
        ("sub/more.txt", lambda p: p.unlink(), "missing"),
        ("extra", lambda p: p.write_text(""), "not part of it"),
    ],
)
def test_a_damaged_version_is_refused_by_the_name_of_the_file(tmp_path: Path, name: str, change, state: str) -> None:  # type: ignore[no-untyped-def]
    store = ModelStore(tmp_path / "store")
    version = store.publish(model_dir(tmp_path / "src"))
    change(version.path / name)
    with pytest.raises(StoreError, match=f"{name}.*{state}"):
        store.get(version.version)


def test_another_versions_checksum_is_refused(tmp_path: Path) -> None:
    version = ModelStore(tmp_path / "store").publish(model_dir(tmp_path / "src"))
    with pytest.raises(StoreError, match="its checksum is"):
        verify(version.path, "0" * 64)
    (version.path / MANIFEST).write_text("{")
    with pytest.raises(StoreError, match="not a complete model version"):
        verify(version.path, version.sha256)


@pytest.mark.parametrize("name", ["edge-0001-00000000", "../../etc", "edge-1", ""])
def test_a_version_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        ModelStore(tmp_path).get(name)


def test_a_source_without_a_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(StoreError, match=r"config\.json"):
        ModelStore(tmp_path / "store").publish(tmp_path / "src")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from actors import model_store
    left = int(sys.argv[3])
    def die_later(fd):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = die_later
    model_store.ModelStore(Path(sys.argv[2])).publish(Path(sys.argv[1]))
    """
)


def test_a_kill_at_any_moment_of_a_publication_leaves_no_half_version(tmp_path: Path) -> None:
    source, root = model_dir(tmp_path / "src"), tmp_path / "store"
    environment = {**os.environ, "PYTHONPATH": str(Path(model_store.__file__).parents[1])}
    for moment in range(1, 20):
        command = [sys.executable, "-c", KILLED, str(source), str(root), str(moment)]
        finished = subprocess.run(command, check=False, env=environment).returncode == 0
        for version in ModelStore(root).list():
            ModelStore(root).get(version.version)
        if finished:
            break
    assert finished and moment > 5
    numbers = [version.number for version in ModelStore(root).list()]
    published = ModelStore(root).publish(source)
    assert published.number > max(numbers)
    assert not list(root.glob(".aside*"))


def test_numbers_never_return_even_when_the_newest_version_is_gone(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", keep=2)
    for expected in range(1, 5):
        assert store.publish(model_dir(tmp_path / "src")).number == expected
    assert [v.number for v in store.list()] == [3, 4]
    latest = store.latest()
    assert latest
    (latest.path / MANIFEST).unlink()
    assert store.publish(model_dir(tmp_path / "src")).number == 5


def test_the_parent_of_a_new_version_is_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", keep=1)
    first = store.publish(model_dir(tmp_path / "src"))
    store.publish(model_dir(tmp_path / "src"), parent=first.version)
    assert [v.number for v in store.list()] == [1, 2]
    store.publish(model_dir(tmp_path / "src"))
    assert [v.number for v in store.list()] == [3]


def test_links_in_the_source_become_files(tmp_path: Path) -> None:
    source = model_dir(tmp_path / "src")
    (source / "model.safetensors").rename(tmp_path / "blob")
    (source / "model.safetensors").symlink_to(tmp_path / "blob")
    version = ModelStore(tmp_path / "store").publish(source)
    assert not (version.path / "model.safetensors").is_symlink()


def adapter_dir(path: Path, base: Path, content: str = "change") -> Path:
    model_dir(path).joinpath("model.safetensors").unlink()
    (path / ADAPTER_FILE).write_text(content)
    write_base(path, base)
    return path


def test_an_adapter_names_its_base_and_a_moved_store_still_holds_both(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    base = store.publish(model_dir(tmp_path / "src"))
    adapter = store.publish(adapter_dir(tmp_path / "adapter", base.path), parent=base.version)
    assert (adapter.base, base.base) == (base.version, None)
    store.root.rename(tmp_path / "moved")
    found = ModelStore(tmp_path / "moved").get(adapter.version)
    assert whole(found.path).resolve() == tmp_path / "moved" / base.version


def test_an_adapter_whose_base_is_damaged_or_gone_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    base = store.publish(model_dir(tmp_path / "src"))
    adapter = store.publish(adapter_dir(tmp_path / "adapter", base.path))
    (base.path / "model.safetensors").write_text("weightz")
    with pytest.raises(StoreError, match=f"{base.version}.*fails its checksum"):
        store.get(adapter.version)
    shutil.rmtree(base.path)
    with pytest.raises(StoreError, match=f"{base.version}: not a complete model version"):
        store.get(adapter.version)


def test_an_adapter_of_an_adapter_or_of_a_stranger_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    base = store.publish(model_dir(tmp_path / "src"))
    adapter = store.publish(adapter_dir(tmp_path / "adapter", base.path))
    for stranger in (adapter.path, tmp_path / "src", tmp_path / "nowhere"):
        with pytest.raises(StoreError):
            store.publish(adapter_dir(tmp_path / "bad", stranger))
    assert len(store.names()) == 2 and not list(store.root.glob(".aside*"))


def test_a_base_outlives_its_age_while_an_adapter_of_it_is_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", keep=2)
    base = store.publish(model_dir(tmp_path / "src"))
    store.publish(adapter_dir(tmp_path / "adapter", base.path))
    for expected in ([1, 2, 3], [3, 4]):  # the adapter goes with its age, and its base with it
        store.publish(model_dir(tmp_path / "src"))
        assert [v.number for v in store.list()] == expected


def test_versions_of_one_site_do_not_push_out_those_of_another(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", keep=2)
    base = store.publish(model_dir(tmp_path / "src"))
    for site in ("north", "south", "north", "north", "south"):
        store.publish(adapter_dir(tmp_path / "adapter", base.path), meta={"site": site})
    assert [(v.number, v.site) for v in store.list()] == [
        (1, None), (3, "south"), (4, "north"), (5, "north"), (6, "south"),
    ]  # fmt: skip
