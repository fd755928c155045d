"""The circuit breaker as mathematics, and the wrappers around an engine that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine import Completion, Generation, LoadReport, Prompt, Sampling
from actors.resilience import BreakerEngine, Retrying, is_transient
from policies.breaker import Admission, Breaker, BreakerPolicy, Circuit
from policies.errors import BadRequest, EngineError, NetGPTError, Refused, Unreachable

POLICY = BreakerPolicy(failures=3, cool_down_s=10.0, cool_down_max_s=35.0)
ASK, GREEDY = Prompt([{"role": "user", "content": "hi"}]), Sampling()
ANSWER = Generation((Completion("yes", (), "stop", 1),), 1, "v", 0.0)

# A history: at each step some seconds pass, then a call asks to go out and its fate is decided.
FATES = st.sampled_from(["succeeds", "fails", "abandoned", "hangs"])
HISTORIES = st.lists(st.tuples(st.floats(0, 40), FATES), max_size=60)


class Scripted:
    """An engine that does what the next line of its script says; a fake beside the real ones."""

    def __init__(self, *script: NetGPTError | Generation | float) -> None:
        self.script, self.calls = list(script), 0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        self.calls += 1
        line = self.script.pop(0) if self.script else ANSWER
        if isinstance(line, Exception):
            raise line
        if isinstance(line, float):
            await asyncio.sleep(line)
            return ANSWER
        return line

    async def load(self, path: Path, version: str) -> LoadReport:
        return LoadReport(version, 0.0)

    async def close(self) -> None:
        self.script.clear()


def play(history: list[tuple[float, str]], seen: Callable[[Breaker, Admission, float], None]) -> Breaker:
    breaker, now = Breaker(POLICY), 0.0
    for passed, fate in history:
        now += passed
        before = breaker
        breaker, admission = breaker.admit(now)
        seen(before, admission, now)
        if admission is Admission.REFUSED:
            continue
        if fate == "succeeds":
            breaker = breaker.succeeded(admission)
        elif fate == "fails":
            breaker = breaker.failed_at(admission, now)
        elif fate == "abandoned":
            breaker = breaker.abandoned(admission)
    return breaker


@given(HISTORIES)
def test_no_call_goes_out_while_the_circuit_is_open(history: list[tuple[float, str]]) -> None:
    def seen(before: Breaker, admission: Admission, now: float) -> None:
        if before.circuit(now) is Circuit.OPEN:
            assert admission is Admission.REFUSED

    play(history, seen)


@given(HISTORIES)
def test_at_most_one_probe_is_on_its_way(history: list[tuple[float, str]]) -> None:
    def seen(before: Breaker, admission: Admission, now: float) -> None:
        assert not (before.probing and admission is Admission.PROBE)

    play(history, seen)


@given(HISTORIES)
def test_a_closed_circuit_has_fewer_failures_than_open_it(history: list[tuple[float, str]]) -> None:
    breaker = play(history, lambda *_: None)
    assert breaker.opened_s is not None or breaker.failed < POLICY.failures


@given(HISTORIES, st.floats(0, 1e6))
def test_a_cool_down_ends_within_its_cap(history: list[tuple[float, str]], later: float) -> None:
    breaker = play(history, lambda *_: None)
    if breaker.opened_s is not None:
        assert breaker.circuit(breaker.opened_s + POLICY.cool_down_max_s) is Circuit.HALF_OPEN
        assert 0 <= breaker.wait_s(breaker.opened_s + later) <= POLICY.cool_down_max_s


@given(HISTORIES)
def test_one_answered_probe_closes_the_circuit(history: list[tuple[float, str]]) -> None:
    breaker = play(history, lambda *_: None).abandoned(Admission.PROBE)
    late = (breaker.opened_s or 0.0) + POLICY.cool_down_max_s
    breaker, admission = breaker.admit(late)
    assert breaker.succeeded(admission) == Breaker(POLICY)


def test_failed_probes_double_the_cool_down_up_to_the_cap() -> None:
    breaker, now, waits = Breaker(POLICY, failed=2), 0.0, []
    breaker = breaker.failed_at(Admission.CALL, now)
    for _ in range(4):
        waits.append(breaker.wait_s(now))
        now += breaker.wait_s(now)
        breaker, admission = breaker.admit(now)
        breaker = breaker.failed_at(admission, now)
    assert waits == [10.0, 20.0, 35.0, 35.0]


def test_results_of_calls_from_before_it_opened_change_nothing() -> None:
    opened = Breaker(POLICY, failed=2).failed_at(Admission.CALL, 5.0)
    assert opened.failed_at(Admission.CALL, 6.0) == opened
    assert opened.succeeded(Admission.CALL) == opened


@pytest.mark.parametrize(
    ("why", "again"),
    [
        (Unreachable("x"), True),
        (Refused("x", 429), True),
        (Refused("x", 503), True),
        (Refused("x", 404), False),
        (EngineError("x"), False),
        (BadRequest("x"), False),
    ],
)
async def test_only_what_may_pass_is_tried_again(why: NetGPTError, again: bool) -> None:
    engine = Scripted(why)
    retrying = Retrying(engine, name="cloud", attempts=2, deadline_s=5, backoff_s=0.001, backoff_max_s=0.001)
    if again:
        assert await retrying.generate(ASK, GREEDY) is ANSWER
    else:
        with pytest.raises(type(why)):
            await retrying.generate(ASK, GREEDY)
    assert engine.calls == (2 if again else 1)
    assert is_transient(why) is again


async def test_the_last_failure_is_the_one_reported() -> None:
    engine = Scripted(Unreachable("first"), Refused("second", 500), Refused("third", 502))
    retrying = Retrying(engine, name="cloud", attempts=3, deadline_s=5, backoff_s=0.001, backoff_max_s=0.001)
    with pytest.raises(Refused, match="third"):
        await retrying.generate(ASK, GREEDY)


async def test_retries_end_at_the_deadline() -> None:
    slow = Scripted(10.0)
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unreachable, match=r"cloud: no answer within 0\.1 s"):
        await Retrying(slow, name="cloud", attempts=3, deadline_s=0.1, backoff_s=0.01, backoff_max_s=0.01).generate(
            ASK, GREEDY
        )
    assert asyncio.get_running_loop().time() - started < 1
    down = Scripted(*[Unreachable("down")] * 1000)
    with pytest.raises(Unreachable):
        await Retrying(down, name="cloud", attempts=1000, deadline_s=0.1, backoff_s=0.01, backoff_max_s=0.01).generate(
            ASK, GREEDY
        )


async def test_the_circuit_opens_probes_and_closes() -> None:
    now = 0.0
    engine = Scripted(*[Unreachable("down")] * 3)
    guarded = BreakerEngine(engine, name="cloud", policy=POLICY, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(Unreachable, match="down"):
            await guarded.generate(ASK, GREEDY)
    with pytest.raises(Unreachable, match=r"cloud: not asked.*10\.0 s"):
        await guarded.generate(ASK, GREEDY)
    assert (engine.calls, guarded.circuit, guarded.gauges()["circuit_open"]) == (3, Circuit.OPEN, 1.0)
    now = 10.0
    assert await guarded.generate(ASK, GREEDY) is ANSWER
    assert guarded.circuit is Circuit.CLOSED


async def test_a_4xx_is_an_answer_and_closes_the_circuit() -> None:
    engine = Scripted(Unreachable("x"), Unreachable("x"), Refused("no such model", 404), Unreachable("x"))
    guarded = BreakerEngine(engine, name="cloud", policy=POLICY)
    for _ in range(4):
        with pytest.raises(EngineError):
            await guarded.generate(ASK, GREEDY)
    assert guarded.circuit is Circuit.CLOSED


@pytest.mark.parametrize("fate", ["cancelled", "bad request"])
async def test_a_probe_that_tells_nothing_leaves_room_for_the_next(fate: str) -> None:
    now = 0.0
    engine = Scripted(*[Unreachable("down")] * 3, 10.0 if fate == "cancelled" else BadRequest("x"))
    guarded = BreakerEngine(engine, name="cloud", policy=POLICY, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await guarded.generate(ASK, GREEDY)
    now = 10.0
    probe = asyncio.create_task(guarded.generate(ASK, GREEDY))
    await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises((asyncio.CancelledError, BadRequest)):
        await probe
    assert await guarded.generate(ASK, GREEDY) is ANSWER


async def test_wrappers_hand_on_load_and_close() -> None:
    engine = Scripted(ANSWER)
    retrying = Retrying(engine, name="cloud", attempts=1, deadline_s=1, backoff_s=0.1, backoff_max_s=0.1)
    guarded = BreakerEngine(retrying, name="cloud", policy=POLICY)
    assert (await guarded.load(Path("x"), "v2")).version == "v2"
    await guarded.close()
    assert engine.script == []
