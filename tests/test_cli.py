"""The command line as a stranger types it: every mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import run_file

ROOT = Path(__file__).parent.parent


def netgpt(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("netgpt: ")
    return lines[0]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_help_names_every_command() -> None:
    done = netgpt("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("demo", "serve", "status", "ask", "replay", "train"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("site:\n  prot: 8000\n", "line 2: site.prot: unknown setting. Fix: remove it; did you mean site.port?"),
        ("site:\n  port: 80000\n", "line 2: site.port: 80000 cannot be used"),
        ("site: [\n", "not YAML"),
        ("site:\n  engine: {model: /no/such/model}\n", "/no/such/model does not exist. Fix:"),
        ("cloud: {kind: openai}\n", "cloud.base_url: missing, but cloud.kind is openai. Fix:"),
        ("ray: {address: '127.0.0.1:1'}\n", "no Ray cluster could be joined at '127.0.0.1:1'"),
    ],
)
def test_a_broken_configuration_names_file_key_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in one_sentence(netgpt("serve", "-c", write(tmp_path / "site.yaml", text)))


def test_a_missing_configuration_is_one_sentence(tmp_path: Path) -> None:
    assert "no such file" in one_sentence(netgpt("serve", "-c", str(tmp_path / "none.yaml")))


def test_status_and_ask_say_that_nothing_runs(tmp_path: Path) -> None:
    config = write(tmp_path / "site.yaml", f"var: {tmp_path / 'var'}\n")
    for command in (["status", "-c", config], ["ask", "hello", "-c", config]):
        assert "no system runs here" in one_sentence(netgpt(*command))


def test_a_second_system_on_one_var_directory_is_refused(tmp_path: Path) -> None:
    run_file.write(tmp_path / "run.json", {"pid": os.getpid(), "endpoint": "http://127.0.0.1:1/v1"})
    config = write(tmp_path / "site.yaml", f"var: {tmp_path}\n")
    for command in (["serve", "-c", config], ["demo", "--var", str(tmp_path)]):
        assert "a system already runs with this var directory" in one_sentence(netgpt(*command))


def test_ask_refuses_tools_it_cannot_read(tmp_path: Path) -> None:
    for text in ("{", json.dumps({"name": "x"})):
        tools = write(tmp_path / "tools.json", text)
        message = one_sentence(netgpt("ask", "hello", "--url", "http://127.0.0.1:1/v1", "--tools", tools))
        assert "tools.json" in message
        assert "Fix:" in message


def test_an_endpoint_that_is_not_there_is_one_sentence() -> None:
    assert "http://127.0.0.1:1/v1" in one_sentence(netgpt("ask", "hello", "--url", "http://127.0.0.1:1/v1"))


BASE_ONLY = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        heavy = "ray torch vllm transformers numpy pyarrow grpc jsonschema uvicorn"
        if name.split(".")[0] in heavy.split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ask", "hello", "--url", "http://127.0.0.1:1/v1"], "Connection error"),
        (["serve"], "The base install is the client alone"),
        (["demo"], "The base install is the client alone"),
    ],
)
def test_the_base_install_asks_and_says_what_it_lacks(arguments: list[str], expected: str) -> None:
    start = "import orchestrator.client\nfrom orchestrator.cli import main\nmain()"
    code = f"{BASE_ONLY}\nsys.argv[1:] = {arguments}\n{start}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert expected in one_sentence(done)


@pytest.mark.parametrize(
    ("gauges", "words"),
    [
        ({}, "none in force"),
        ({"drift_alarm": 1.0, "threshold_floor": 0.9}, "drift is suspected, the threshold is at least 0.90"),
        ({"inputs_clamped": 2.0}, "2 figures lie outside what the threshold was fitted on"),
        ({"budget_left": 0.25}, "25% of the cap is left"),
    ],
)
def test_status_says_what_stands_around_the_threshold(gauges: dict[str, float], words: str) -> None:
    from orchestrator.serving import limits

    assert limits(gauges) == words


def test_a_round_by_hand_says_what_it_lacks(tmp_path: Path) -> None:
    config = write(tmp_path / "site.yaml", f"var: {tmp_path / 'var'}\n")
    assert "it holds no edge version. Fix:" in one_sentence(netgpt("train", "round", "-c", config))
