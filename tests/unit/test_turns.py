"""Who may write next."""

import asyncio
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from mesh_wire.turns import Turns
from support.waiting import eventually


async def test_turns_beyond_the_bound_wait_and_are_served_in_order() -> None:
    turns, order = Turns(2, longest_s=60), list[str]()
    first, second = await turns.take(), await turns.take()

    async def writer(name: str) -> None:
        turn = await turns.take()
        order.append(name)
        turns.give_back(turn)

    writers = [asyncio.create_task(writer(name)) for name in "abc"]
    await asyncio.sleep(0)
    assert order == []

    turns.give_back(first)
    await asyncio.gather(*writers)
    assert order == ["a", "b", "c"]
    turns.give_back(second)


async def test_a_write_that_does_not_end_loses_its_turn() -> None:
    turns = Turns(1, longest_s=0.001)
    stalled = await turns.take()

    turn = await turns.take()

    turns.give_back(stalled)  # late, and harmless: the other's turn goes on
    waiting = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    turns.give_back(turn)
    turns.give_back(await waiting)


@given(st.lists(st.sampled_from(["take", "give", "cancel"]), max_size=40))
async def test_no_turn_is_lost_or_doubled(steps: list[str]) -> None:
    turns, tasks = Turns(2, longest_s=60), list[asyncio.Task[int]]()
    for step in steps:
        ready = [task for task in tasks if task.done()]
        if step == "take":
            tasks.append(asyncio.create_task(turns.take()))
        elif step == "give" and ready:
            tasks.remove(ready[0])
            turns.give_back(ready[0].result())
        elif step == "cancel" and tasks and not tasks[-1].done():
            task = tasks.pop()
            task.cancel()
            with suppress(asyncio.CancelledError):
                turns.give_back(await task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) == min(2, len(tasks))
    for task in tasks:
        await eventually(task.done)
        turns.give_back(task.result())

    assert [await turns.take(), await turns.take()]
