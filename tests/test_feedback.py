"""Clients' verdicts: taken by the endpoint, kept through kills and full disks, learnt from, and never judged by."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge_fakes import MOVE, NodeKit
from test_http import error_of, listening
from test_learner import accepted, call, record

from actors import feedback_log
from actors.feedback_log import FeedbackLog, Verdict, read_feedback
from orchestrator.client import AsyncNetGPT
from orchestrator.endpoint.app import Surface
from orchestrator.lessons import held_out, lessons
from policies.errors import LogError

ID = "0123456789abcdef" * 2
RESPONSE = {"model": "netgpt", "input": "hi", "tools": [{"type": "function", **MOVE["function"]}]}  # type: ignore[dict-item]
SOUTH_CALL = {"type": "function", "function": {"name": "move_slice", "arguments": '{"to": "south"}'}}


@asynccontextmanager
async def taking(root: Path) -> AsyncIterator[str]:
    app = Surface(NodeKit().node, keep=FeedbackLog(root, "a").append)
    async with listening(app) as url:
        yield url


async def test_a_verdict_is_joined_to_its_record_by_the_answers_own_id(tmp_path: Path) -> None:
    kit = NodeKit()
    app = Surface(kit.node, keep=FeedbackLog(tmp_path, "a").append)
    async with listening(app) as url, AsyncNetGPT(f"{url}/v1") as client:
        first = await client.ask("move it", [MOVE])
        await client.feedback(first, right=False)
        second = await client.ask("move it", [MOVE])
        await client.feedback(second, message={"role": "assistant", "content": None, "tool_calls": [SOUTH_CALL]})
    found = read_feedback(tmp_path)
    said = [found[record.request_id] for record in kit.log.records]
    assert [verdict.right for verdict in said] == [False, False]
    assert said[0].answer is None
    assert said[1].answer == '<tool_call>{"name":"move_slice","arguments":{"to":"south"}}</tool_call>'


WRONG = [
    ({}, "id"),
    ({"id": "x", "right": True}, "id"),
    ({"id": f"chatcmpl-{ID}/../x", "right": True}, "id"),
    ({"id": ID}, "right"),
    ({"id": ID, "right": "yes"}, "right"),
    ({"id": ID, "right": True, "message": {"content": "x"}}, "message"),
    ({"id": ID, "message": {}}, "message.content"),
    ({"id": ID, "message": {"role": "user", "content": "x"}}, "message.role"),
    ({"id": ID, "message": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}},
     "message.tool_calls[0].function.arguments"),
    ({"id": ID, "right": True, "stars": 5}, "stars"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "param"), WRONG, ids=range(len(WRONG)))
async def test_a_verdict_that_says_nothing_is_400_and_named(tmp_path: Path, given: dict[str, Any], param: str) -> None:
    async with taking(tmp_path) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        reply = await client.post("/v1/feedback", json=given)
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)
    assert read_feedback(tmp_path) == {}


async def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with taking(tmp_path) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.post("/v1/feedback", json={"id": ID, "right": True})).status_code == 200
        monkeypatch.setattr(feedback_log.os, "fsync", full)
        reply = await client.post("/v1/feedback", json={"id": ID, "right": False})
        assert reply.status_code == 503 and "retry-after" in reply.headers
        monkeypatch.undo()
        assert read_feedback(tmp_path)[ID].right  # what was acknowledged, and nothing of what was not


def test_the_last_word_counts_and_what_is_torn_is_passed_over(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "a")
    log.append(Verdict(ID, 1, True))
    log.append(Verdict(ID, 2, False, "no"))
    file = tmp_path / "site=a" / "feedback.jsonl"
    with file.open("ab") as torn:
        torn.write(b'\xff\n{"request_id": 5, "time_us": 1, "right": true}\n[1]\n{"request_id": "' + ID.encode())
    assert read_feedback(tmp_path) == {ID: Verdict(ID, 2, False, "no")}


def test_only_so_many_are_kept_and_the_newest_are(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, "a", file_bytes=1000)
    for number in range(100):
        log.append(Verdict(str(number), number, True))
    assert sum(path.stat().st_size for path in (tmp_path / "site=a").iterdir()) <= 2000
    kept = sorted(int(name) for name in read_feedback(tmp_path))
    assert kept == list(range(kept[0], 100)) and len(kept) > 10


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "site=a").write_text("")
    with pytest.raises(LogError, match=r"feedback\.jsonl"):
        FeedbackLog(tmp_path, "a").append(Verdict(ID, 1, True))


# What is learnt from them

TRAINED = [n for n in range(50) if not held_out(f"put slice {n} in b", 0.3)][:4]
GATED = next(n for n in range(50) if held_out(f"put slice {n} in b", 0.3))


def taught(*said: Verdict, **changes: object) -> Any:
    records = [accepted(number, draft=call("b"), answer=call("b"), **changes) for number in (*TRAINED, GATED)]
    return lessons(records, "v", 0.3, verdicts={verdict.request_id: verdict for verdict in said})


def test_a_correction_teaches_and_an_answer_that_was_right_does_too() -> None:
    one, other = (str(number) for number in TRAINED[:2])
    found = taught(Verdict(one, 1, False, call("a")), Verdict(other, 1, True))
    assert sorted(label.answer for label in found.labels) == [call("a"), call("b")]
    assert [label.rejected for label in found.labels if label.answer == call("a")] == [call("b")]
    assert {label.weight for label in found.labels} == {1.0}
    assert found.labelled == 2


def test_a_correction_goes_before_the_clouds_word() -> None:
    number = TRAINED[0]
    found = lessons([record(number)], "v", 0.3, verdicts={str(number): Verdict(str(number), 1, False, call("a"))})
    assert [label.answer for label in found.labels] == [call("a")]


def test_what_was_wrong_and_was_not_corrected_teaches_nothing_and_is_not_kept() -> None:
    found = taught(Verdict(str(TRAINED[0]), 1, False))
    assert len(found.questions) == len(TRAINED) - 1
    assert found.poisoned == {"answer was wrong, a client says": 1}


def test_a_correction_that_fails_the_tools_is_counted_and_passed_over() -> None:
    found = taught(Verdict(str(TRAINED[0]), 1, False, call("nowhere")))
    assert found.poisoned == {"feedback: answer fails the tools": 1}
    assert not found.labels and len(found.questions) == len(TRAINED)


def test_no_verdict_reaches_the_gate() -> None:
    found = taught(Verdict(str(GATED), 1, False, call("a")))
    assert [case.cloud for case in found.trials] == [None]
    assert not found.labels
