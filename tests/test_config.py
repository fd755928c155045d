"""The settings file: what a good one gives, and what is said about a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator import config as config_module
from orchestrator.config import Config, default_config, load_config, resolve_model
from policies.errors import BadConfig

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_valid_configuration(path: Path) -> None:
    config = load_config(path)
    assert config.price_list.prices_at(0.0).input_usd_per_mtok > 0


def test_the_examples_are_the_promised_ones() -> None:
    promised = ["budgets", "gpu", "openai-cloud", "production", "shared-gpu", "single-machine"]
    assert [path.stem for path in EXAMPLES] == promised
    gpu = load_config(EXAMPLES[1])
    assert (gpu.site.engine.model, gpu.cloud.model) == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B")


def test_the_single_machine_example_names_only_bundled_models() -> None:
    config = load_config(next(path for path in EXAMPLES if path.stem == "single-machine"))
    assert (config.site.engine.model, config.cloud.model) == ("bundled:edge", "bundled:cloud")
    assert config.ray.address is None


def test_an_empty_file_is_the_embedded_default(tmp_path: Path) -> None:
    assert load_config(_file(tmp_path, "")) == Config()
    assert load_config(_file(tmp_path, "site:\ncloud:\n")) == Config()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().var = Path("elsewhere")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    config = load_config(_file(tmp_path, "link: {initial: {up: 50e6, down: walking.down}}\nlearner: {lr: 1e-4}"))
    assert config.link.initial.up == 50e6
    assert config.link.initial.down == "walking.down"
    assert config.learner.lr == 1e-4


def test_every_setting_is_documented() -> None:
    undocumented = [key for key, field in _settings(Config, "") if not field.description]
    assert undocumented == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("site:\n  port: 99999", ["line 2: site.port: 99999", "65535", "Fix", "TCP port"]),
        ("site:\n  prot: 1", ["line 2: site.prot: unknown setting", "did you mean site.port?"]),
        ("zzz: 1", ["line 1: zzz: unknown setting", "known here: var, site, cloud"]),
        ("site: 3", ["line 1: site: 3 cannot be used", "Fix"]),
        (
            "site: {engine: {kind: vlm}}",
            ["site.engine.kind: 'vlm'", "'vllm', 'transformers', 'openai' or 'vllm-server'"],
        ),
        ("site: {name: Plant One}", ["site.name: 'Plant One'", "lower-case letters"]),
        ("policy: {objective: {value_usd: 1, cloud_accuracy: 1}}", ["policy.objective.second_usd: missing", "Fix"]),
        ("prices: {request_usd: -1}", ["line 1: prices.request_usd: -1.0", "at least 0"]),
        ("prices: {reqest_usd: 1}", ["did you mean prices.request_usd?"]),
        ("policy: {objective: {value_usd: 1, second_usd: 0, cloud_accuracy: 97}}", ["at most 1", "0.97"]),
        ("learner: {workers: 4, batch_size: 2}", ["learner.workers: 4", "learner.batch_size (2)", "Fix"]),
        ("cloud: {kind: openai}", ["cloud.base_url: missing", "Fix"]),
        ("cloud: {kind: openai, base_url: api.example.com}", ["cloud.base_url", "is not a URL"]),
        ("cloud: {kind: openai, base_url: https://a.example/v1}", ["link.kind: emulated cannot carry https", "direct"]),
        ("site: {engine: {kind: openai}}", ["site.engine.base_url: missing"]),
        ("site: {engine: {kind: vllm-server}}\nlearner: {method: lora}", ["site.engine.base_url: missing"]),
        (
            "site: {engine: {kind: vllm-server, base_url: 'http://a/v1'}}",
            ["learner.method", "share its weights", "lora"],
        ),
        ("cloud: {replicas: 3, max_replicas: 2}", ["cloud.max_replicas: 2 is below cloud.replicas (3)"]),
        ("site: {port: 9000}\ncloud: {port: 9000}", ["line 2: cloud.port: 9000 is also site.port"]),
        ("link: {initial: {up: -1}}", ["link.initial.up: a rate of -1", "outage: true"]),
        ("link: {initial: {down: []}}", ["line 1: link.initial.down: [] cannot be used"]),
        ("policy: {kind: policynet}", ["policy.file: missing", "netgpt train policy"]),
        ("policy: {kind: fixed, file: p.json}", ["policy.file: of no use to kind fixed", "Fix"]),
        ("policy: {kind: policynet, file: nowhere.json}", ["policy.file: nowhere.json does not exist", "Fix"]),
        ("policy: {risk: 0}", ["policy.risk: 0", "Fix"]),
        ("policy: {budget: {offload_rate: 30}}", ["policy.budget.offload_rate: 30", "Fix"]),
        ("tariff: {zone: UTC, periods: [{start: '08:00', end: '20:00', prices: {}}]}", ["no price", "20:00", "Fix"]),
        (
            "tariff: {zone: Mars/Olympus, periods: [{start: '00:00', end: '24:00', prices: {}}]}",
            ["Mars/Olympus", "time zone", "Fix"],
        ),
        ("prices: {request_usd: 1}\ntariff: {zone: UTC, periods: []}", ["tariff: prices are given too", "Fix"]),
        ("ray: {temp_dir: /tmp/a-very-long-directory-name-for-unix-sockets}", ["ray.temp_dir", "too long"]),
        ("site: {port: 1}\nsite: {port: 2}", ["line 2: site was already given on line 1", "Fix"]),
        ("site: {port: 1", ["line 1, column", "not YAML", "Fix"]),
        ("a: *nowhere", ["not YAML", "undefined alias"]),
        ("!!python/object:os.system {}", ["not YAML", "Fix"]),
        ("? {a: 1}\n: 2", ["not YAML", "unhashable"]),
        ("[1]", ["holds [1] and no sections", "Fix"]),
    ],
)
def test_a_mistake_names_the_file_the_key_and_the_fix(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(BadConfig) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "directory"])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "netgpt.yaml"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"netgpt\.yaml.*Fix"):
        load_config(path)


def test_settings_given_in_code_are_checked_like_a_file() -> None:
    assert default_config(site={"port": 0}).site.port == 0
    with pytest.raises(BadConfig, match=r"^cloud\.base_url: missing"):
        default_config(cloud={"kind": "openai"})


def test_paths_lie_under_var() -> None:
    config = Config(var=Path("somewhere"))
    assert config.log_dir == Path("somewhere/log").absolute()
    assert config.store_dir == Path("somewhere/models").absolute()


def test_a_bundled_model_is_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "BUNDLED", tmp_path)
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "config.json").touch()
    assert resolve_model("bundled:edge") == str(tmp_path / "edge")
    with pytest.raises(BadConfig, match=r"'bundled:egde'.*does not exist.*bundled:edge"):
        resolve_model("bundled:egde")


def test_a_model_directory_that_is_missing_or_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="does not exist"):
        resolve_model(str(tmp_path / "nowhere"))
    with pytest.raises(BadConfig, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))


def test_a_hugging_face_id_is_left_alone() -> None:
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


def _file(directory: Path, text: str) -> Path:
    path = directory / "netgpt.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _settings(model: type[BaseModel], prefix: str) -> list[tuple[str, FieldInfo]]:
    found: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        found.append((f"{prefix}{name}", field))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _settings(field.annotation, f"{prefix}{name}.")
    return found
