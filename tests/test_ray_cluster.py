"""``ray_cluster.yaml`` is accepted by Ray's own validation and agrees with the rest of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.config import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8"))
    return config


def test_ray_accepts_the_cluster_config(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_cloud_workers_have_gpus_and_scale_from_nothing(cluster: dict[str, Any]) -> None:
    cloud = cluster["available_node_types"]["cloud"]
    gpu = load_config(ROOT / "examples" / "gpu.yaml")
    assert cloud["min_workers"] == 0
    assert cloud["resources"]["GPU"] >= gpu.cloud.gpus_per_replica
    replicas = cloud["max_workers"] * cloud["resources"]["GPU"] // gpu.cloud.gpus_per_replica
    assert replicas >= (gpu.cloud.max_replicas or gpu.cloud.replicas)


def test_only_one_node_type_offers_the_site_of_the_gpu_example(cluster: dict[str, Any]) -> None:
    site = load_config(ROOT / "examples" / "gpu.yaml").site.name
    offering = [n for n, kind in cluster["available_node_types"].items() if f"site:{site}" in kind["resources"]]
    assert offering == [f"edge-{site}"]


def test_nodes_are_set_up_from_our_locks_and_our_package(cluster: dict[str, Any]) -> None:
    for commands, lock in (("head_setup_commands", "cpu.txt"), ("worker_setup_commands", "gpu.txt")):
        text = "\n".join(cluster[commands])
        assert f"-r ~/netgpt/requirements/{lock}" in text
        assert (ROOT / "requirements" / lock).is_file()
        assert "-e ~/netgpt" in text
    assert cluster["file_mounts"]["/home/ubuntu/netgpt"] == "."


def test_the_cluster_only_talks_to_who_has_the_token(cluster: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in cluster[commands][-1]
    assert any(path.endswith(".ray/auth_token") for path in cluster["file_mounts"])
