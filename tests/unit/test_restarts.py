"""Processes that end by themselves: started again, with pauses that grow, and crash loops by name."""

import asyncio
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from expertmesh_client.child import Child
from expertmesh_client.restarts import Pauses, kept_running
from support.waiting import eventually


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 1000))
def test_pauses_double_up_to_the_longest(ends: int, first_s: float, longest_s: float) -> None:
    pauses = Pauses(first_s=first_s, longest_s=longest_s)

    assert pauses.before(1) == first_s
    assert first_s <= pauses.before(ends) <= pauses.before(ends + 1) <= longest_s
    assert pauses.before(ends + 1) in (2 * pauses.before(ends), longest_s)


async def kept(folder: Path, code: str, lines: int, pauses: Pauses) -> list[str]:
    """Keep a process running that runs `code`, until so many lines have been said of it; returns them."""
    child = Child("expert-a", [sys.executable, "-c", code], "127.0.0.1:1", folder / "log", grace_s=5)
    said: list[str] = []

    async def start(child: Child) -> None:
        await child.start({})

    async def serves(child: Child) -> None:
        await eventually(lambda: "serves" in child.last_words)

    await start(child)
    keeping = asyncio.create_task(kept_running(child, start, serves, said.append, pauses))
    try:
        await eventually(lambda: len(said) >= lines)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await child.stop()
    return said[:lines]


async def test_a_crash_loop_is_named_once_and_the_process_is_tried_on(tmp_path: Path) -> None:
    code = "print('error: no memory left', flush=True); raise SystemExit(3)"
    said = await kept(tmp_path, code, 5, Pauses(first_s=0.001, longest_s=0.004, loop=3))

    ends = [line for line in said if line.startswith("expert-a ended: no memory left; it is started again in")]
    assert [line.rsplit(" ", 2)[1] for line in ends] == ["0.001", "0.002", "0.004", "0.004"]
    assert said[3].startswith("expert-a is in a crash loop: it ended 3 times in a row")
    assert str(tmp_path / "log") in said[3]


async def test_one_that_served_well_starts_from_the_shortest_pause_again(tmp_path: Path) -> None:
    said = await kept(tmp_path, "print('serves', flush=True)", 3, Pauses(first_s=0.001, well_after_s=0))

    ends = [line for line in said if "ended" in line]
    assert len(ends) >= 2
    assert all(line.endswith("it is started again in 0.001 s") for line in ends)
