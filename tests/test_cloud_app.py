"""What Ray's LLM app is told to run; the app itself is deployed in test_system."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster import cloud_app
from cluster.options import CloudOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # importing ray.serve.llm warns about Ray's own deprecations


def test_haproxy_goes_straight_to_the_engine_and_shares_nothing_with_another_system() -> None:
    first, second = cloud_app.environment(CloudOptions()), cloud_app.environment(CloudOptions())
    assert first["RAY_SERVE_ENABLE_HA_PROXY"] == first["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
    for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE", "METRICS_PORT", "STATS_PORT"):
        assert first[f"RAY_SERVE_HAPROXY_{name}"] != second[f"RAY_SERVE_HAPROXY_{name}"]


def test_where_haproxy_cannot_run_serves_own_proxy_is_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "haproxy"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(broken))
    with caplog.at_level(logging.WARNING):
        environment = cloud_app.environment(CloudOptions())
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in environment
    assert "HAProxy cannot run here" in caplog.text


def test_haproxy_can_be_switched_off() -> None:
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in cloud_app.environment(CloudOptions(haproxy=False))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("options", [CloudOptions(), CloudOptions(gpus_per_replica=2, max_replicas=4)])
def test_ray_accepts_what_it_is_told(options: CloudOptions, direct: bool, tmp_path: Path) -> None:
    from ray.serve.llm import LLMServingArgs

    arguments = cloud_app.serving_arguments(options, str(tmp_path), {"A": "1"}, direct)
    accepted = LLMServingArgs.model_validate(arguments)
    assert accepted.llm_configs[0].model_id == cloud_app.MODEL_ID
    assert ("ingress_deployment_config" in arguments) is not direct


def test_a_cpu_replica_takes_fractions_of_a_core(tmp_path: Path) -> None:
    llm = cloud_app.serving_arguments(CloudOptions(), str(tmp_path), {}, True)["llm_configs"][0]
    cpus = [bundle["CPU"] for bundle in llm["placement_group_config"]["bundles"]]
    assert sum(cpus) + llm["deployment_config"]["ray_actor_options"]["num_cpus"] < 1
    assert llm["accelerator_config"] == {"kind": "cpu"}


def test_tool_calls_are_parsed_and_the_kv_cache_is_bounded() -> None:
    arguments = cloud_app.engine_arguments(CloudOptions(kv_cache_mb=64, max_model_len=512))
    assert arguments["enable_auto_tool_choice"]
    assert arguments["tool_call_parser"] == "hermes"
    assert (arguments["kv_cache_memory_bytes"], arguments["max_model_len"]) == (64 << 20, 512)


def test_a_gpu_engine_is_left_to_fill_its_device() -> None:
    arguments = cloud_app.engine_arguments(CloudOptions(gpus_per_replica=2, kv_cache_mb=None))
    assert arguments["tensor_parallel_size"] == 2
    assert not {"kv_cache_memory_bytes", "enforce_eager", "max_num_seqs"} & set(arguments)
    assert "TORCH_COMPILE_DISABLE" not in cloud_app.engine_environment(CloudOptions(gpus_per_replica=2), "a/b")


def test_a_local_directory_is_neither_downloaded_nor_looked_up(tmp_path: Path) -> None:
    llm = cloud_app.serving_arguments(CloudOptions(), str(tmp_path), {}, True)["llm_configs"][0]
    assert llm["callback_config"] == {"callback_class": cloud_app.LOCAL}
    assert cloud_app.engine_environment(CloudOptions(), str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    remote = cloud_app.serving_arguments(CloudOptions(), "Qwen/Qwen3-32B", {}, True)["llm_configs"][0]
    assert "callback_config" not in remote
    assert "HF_HUB_OFFLINE" not in cloud_app.engine_environment(CloudOptions(), "Qwen/Qwen3-32B")


def test_ray_refuses_an_app_without_a_model() -> None:
    from ray.serve.llm import LLMServingArgs

    with pytest.raises(ValidationError, match="List of models is empty"):
        LLMServingArgs.model_validate({"llm_configs": []})
