"""The door of a site: so many inside, so many in line, the urgent ones first, nobody forgotten."""

from __future__ import annotations

import asyncio

import pytest
from edge_fakes import until
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.endpoint.admission import MOST_S, Admission, Priority
from policies.errors import Busy


async def wait_in(door: Admission, priority: Priority, seen: list[str], name: str) -> None:
    await door.enter(priority)
    seen.append(name)


async def test_who_is_urgent_goes_first_and_equals_in_their_order() -> None:
    door, seen = Admission(1, 10), []  # type: ignore[var-annotated]
    await door.enter()
    waiting = []
    for name, priority in (("b1", Priority.BATCH), ("i1", Priority.INTERACTIVE), ("b2", Priority.BATCH)):
        waiting.append(asyncio.create_task(wait_in(door, priority, seen, name)))
        await until(lambda: door.waiting == len(waiting))
    for _ in range(3):
        door.leave(0.1)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert seen == ["i1", "b1", "b2"]


async def test_a_full_line_says_when_to_come_back() -> None:
    door = Admission(2, 0)
    await door.enter()
    await door.enter()
    with pytest.raises(Busy, match="2 requests are in flight") as refused:
        await door.enter()
    assert refused.value.retry_after_s == 1
    door.leave(100.0)
    await door.enter()
    with pytest.raises(Busy) as refused:
        await door.enter()
    assert refused.value.retry_after_s == MOST_S
    assert door.gauges() == {"inside": 2.0, "waiting": 0.0, "turned_away": 2.0}


async def test_who_leaves_the_line_frees_it_for_others() -> None:
    door = Admission(1, 1)
    await door.enter()
    gone = asyncio.create_task(door.enter())
    await until(lambda: door.waiting == 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert door.waiting == 0
    stays = asyncio.create_task(door.enter())
    await until(lambda: door.waiting == 1)
    door.leave(0.1)
    await stays


async def test_a_place_given_to_somebody_who_leaves_at_that_moment_is_handed_on() -> None:
    door = Admission(1, 2)
    await door.enter()
    first, second = asyncio.create_task(door.enter()), asyncio.create_task(door.enter())
    await until(lambda: door.waiting == 2)
    door.leave(0.1)
    first.cancel()  # before it could run on
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.wait_for(second, 1.0)
    door.leave(0.1)
    assert door.gauges()["inside"] == 0.0


@given(st.integers(1, 4), st.integers(0, 6), st.lists(st.sampled_from(["come", "batch", "go", "quit"]), max_size=60))
def test_never_more_inside_than_there_is_room_and_nobody_waits_beside_a_free_place(
    capacity: int, line: int, events: list[str]
) -> None:
    async def play() -> None:
        door = Admission(capacity, line)
        inside, waiting = 0, []  # type: ignore[var-annotated]
        for event in events:
            if event in ("come", "batch"):
                priority = Priority.BATCH if event == "batch" else Priority.INTERACTIVE
                waiting.append(asyncio.create_task(door.enter(priority)))
            elif event == "go" and inside:
                door.leave(0.01)
                inside -= 1
            elif event == "quit" and waiting:
                waiting.pop().cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            inside += sum(task.done() and not task.cancelled() and task.exception() is None for task in waiting)
            waiting = [task for task in waiting if not task.done()]
            assert inside == door.gauges()["inside"] <= capacity
            assert door.waiting <= line
            assert inside == capacity or not door.waiting
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(play())
