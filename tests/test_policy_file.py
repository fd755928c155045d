"""Policy files: what is written comes back, and what is not such a file is refused with file, key and fix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_funcdyn import POLICY, SOME, WORK
from test_policynet import NET

from policies.errors import BadConfig
from policies.gain import GainCurve
from policies.policy_file import dumps, load_policy, save
from policies.threshold import FixedThreshold, OptimalThreshold, ThresholdInputs, ThresholdPolicy, build_threshold
from policies.types import CloudSpeed, Objective

OPTIMAL = OptimalThreshold(Objective(0.02, 0.002, 0.97), CloudSpeed(), 0.1)
MEASURED = OptimalThreshold(Objective(0.02, 0.002, 0.97), CloudSpeed(), curve=GainCurve((0.1, 0.7), (0.8, 0.2)))
POLICIES: list[ThresholdPolicy] = [FixedThreshold(0.3), OPTIMAL, MEASURED, POLICY, NET]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "policy.json"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_a_policy_comes_back_exactly(policy: ThresholdPolicy, path: Path) -> None:
    save(path, policy, "edge-3", {"requests": 2000})
    read = load_policy(path, "edge-3")
    assert read == policy == load_policy(path, None)
    assert read.threshold(SOME, WORK) == policy.threshold(SOME, WORK)
    assert [file.name for file in path.parent.iterdir()] == ["policy.json"]


def test_scores_of_another_version_are_refused(path: Path) -> None:
    save(path, NET, "edge-3", {})
    with pytest.raises(BadConfig, match=r"policy\.json: score_version: .*'edge-3', but 'edge-4'.*Fix: write it anew"):
        load_policy(path, "edge-4")


def _drop(data: dict[str, Any], *keys: str) -> None:
    for key in keys[:-1]:
        data = data[key]
    del data[keys[-1]]


def _put(data: dict[str, Any], value: Any, *keys: str) -> None:
    for key in keys[:-1]:
        data = data[key]
    data[keys[-1]] = value


@pytest.mark.parametrize("keys", [("format",), ("kind",), ("score_version",), ("fitted",), ("parameters",)])
def test_a_missing_key_is_named(keys: tuple[str, ...], path: Path) -> None:
    _refused(path, lambda data: _drop(data, *keys), f"{keys[0]}: this key is missing")


@pytest.mark.parametrize("key", ["inputs", "first", "third_bias", "floor"])
def test_a_missing_parameter_is_named(key: str, path: Path) -> None:
    _refused(path, lambda data: _drop(data, "parameters", key), rf"parameters\.{key}: this key is missing")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format",), 1, "format: this program reads 2, got 1"),
        (("kind",), "magic", "kind: must be one of fixed, optimal, funcdyn, policynet, got 'magic'"),
        (("kind",), [], "kind: must be one of"),
        (("kind",), "fixed", r"parameters\.value: this key is missing"),
        (("parameters",), [], "parameters: must be an object"),
        (("parameters", "inputs"), 3, r"parameters\.inputs: must be an object"),
        (("parameters", "extra"), 1, r"parameters\.extra: this key does not belong there"),
        (("parameters", "third_bias"), "0.5", r"parameters\.third_bias: must be a finite number, got '0.5'"),
        (("parameters", "third_bias"), None, r"parameters\.third_bias: must be a finite number"),
        (("parameters", "third_bias"), True, r"parameters\.third_bias: must be a finite number"),
        (("parameters", "third_bias"), 10**400, r"parameters\.third_bias: must be a finite number"),
        (("parameters", "third_bias"), [1.0], "parameters: "),
        (("parameters", "third"), 1.0, "parameters: "),
        (("parameters", "first"), [[1.0], 2.0], "parameters: first must be finite numbers of shape"),
        (("parameters", "first", 0, 0), -1.0, "parameters: first must be >= 0"),
        (("parameters", "floor"), 1.5, r"parameters: floor must lie in \[0, 1\]"),
        (("parameters", "inputs", "gain"), [1.0], r"parameters\.inputs: inputs\.gain must be 12"),
        (("parameters", "inputs", "low", 0), [], r"parameters\.inputs: "),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_the_fix(
    keys: tuple[Any, ...], value: Any, message: str, path: Path
) -> None:
    _refused(path, lambda data: _put(data, value, *keys), message)


def test_nan_and_infinity_are_refused_written_or_read(path: Path) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = dumps(FixedThreshold(0.25), "v", {}).replace("0.25", number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(BadConfig, match=r"policy\.json: .*Fix: write it anew"):
            load_policy(path, "v")
    with pytest.raises(ValueError, match="Out of range"):
        dumps(FixedThreshold(0.25), "v", {"utility": float("nan")})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_policy_file_is_refused(text: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(text)
    with pytest.raises(BadConfig, match=r"policy\.json: not a policy file"):
        load_policy(path, "v")


def test_a_file_that_is_not_there_and_one_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"gone\.json: the policy cannot be read \(No such file"):
        load_policy(tmp_path / "gone.json", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match="cannot be written"):
        save(tmp_path / "file" / "policy.json", OPTIMAL, "v", {})


def test_a_kind_without_a_file_format_is_refused() -> None:
    class Odd:
        def threshold(self, state: object, work: object) -> float:
            return 0.5

    with pytest.raises(BadConfig, match="a Odd cannot be written"):
        dumps(Odd(), "v", {})


def test_a_fitted_kind_is_built_from_its_file_and_only_from_it(path: Path) -> None:
    save(path, NET, "v", {})
    given = ThresholdInputs(OPTIMAL.objective, OPTIMAL.speed, floor=0.2, fitted=load_policy(path, "v"))
    assert build_threshold("policynet", given).threshold(SOME, WORK) == max(0.2, NET.threshold(SOME, WORK))
    with pytest.raises(BadConfig, match=r"'funcdyn' needs the file .* got a PolicyNet. Fix"):
        build_threshold("funcdyn", given)
    with pytest.raises(BadConfig, match=r"'policynet' needs the file .* got none. Fix"):
        build_threshold("policynet", ThresholdInputs(OPTIMAL.objective, OPTIMAL.speed))


def test_a_policy_loads_without_torch_ray_and_scipy(path: Path) -> None:
    save(path, NET, "v", {})
    code = (
        "import sys; from pathlib import Path; from policies.policy_file import load_policy; "
        f"load_policy(Path({str(path)!r}), 'v'); "
        "print(sorted({'torch', 'ray', 'scipy', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _refused(path: Path, change: Any, message: str) -> None:
    data = json.loads(dumps(NET, "v", {}))
    change(data)
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    with pytest.raises(BadConfig, match=rf"policy\.json: {message}.*Fix: write it anew with"):
        load_policy(path, "v")
