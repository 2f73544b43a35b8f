"""The gate on overhead, on real processes: it finds a hop that was slowed down by a fifth of its own CPU.

Nothing here is compared with a recorded figure: a mesh with the plant and one without make waves in turn, and each pair
is a round. Where the machine is too noisy to tell, nothing is said.
"""

import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import geometric_mean

import pytest

from benchmarks.overhead.company import awake
from benchmarks.overhead.judging import Change, Verdict, change
from benchmarks.overhead.mesh import running
from benchmarks.overhead.reference import running_reference
from benchmarks.overhead.rounds import HOPS, SIMULATION, Wave, Ways, open_ways

FEWEST = 20  # rounds
LONGEST_S = 60.0
TOLERANCE = 0.1


@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_a_router_that_was_slowed_down_by_a_fifth_is_caught(tmp_path: Path) -> None:
    if os.getloadavg()[0] > 2 * len(os.sched_getaffinity(0)):
        pytest.skip("the machine is too busy to tell")
    rounds: list[tuple[Wave, Wave]] = []
    async with AsyncExitStack() as life:
        life.enter_context(awake())
        reference = await life.enter_async_context(running_reference())

        async def ways(name: str, plants: dict[str, float]) -> Ways:
            folder = tmp_path / name
            folder.mkdir()
            processes = await life.enter_async_context(running(folder, SIMULATION, plants))
            return await life.enter_async_context(open_ways(processes, reference))

        plain, planted = await ways("plain", {}), await ways("planted", {"router": 0.2})
        ends = time.monotonic() + LONGEST_S
        while True:
            rounds.append((await plain.wave("session"), await planted.wave("session")))
            router = more(rounds, "router")
            if len(rounds) >= FEWEST and (router.verdict is Verdict.WORSE or time.monotonic() > ends):
                break
    if router.verdict is Verdict.UNSURE:
        pytest.skip(f"the machine is too noisy to tell after {len(rounds)} rounds: {router}")
    assert router.verdict is Verdict.WORSE
    assert more(rounds, "expert").verdict is not Verdict.WORSE


def more(rounds: list[tuple[Wave, Wave]], hop: str) -> Change:
    """Return what a hop of the mesh with the plant costs above that of the other, beside the other hops."""

    def times(one: tuple[Wave, Wave], name: str) -> float:
        plain, planted = one
        return planted.cost(name) / plain.cost(name)

    others = [name for name in HOPS["session"] if name != hop]
    beside = [times(one, hop) / geometric_mean(times(one, name) for name in others) for one in rounds]
    return change(beside, 1.0, TOLERANCE)
