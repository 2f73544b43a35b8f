"""Single faults under a load of their own, for a figure each; and none at all, for an hour."""

import asyncio
import time
from dataclasses import dataclass

from benchmarks.chaos.director import NotUp, Run
from benchmarks.chaos.mesh import EXPERTS, GROUPS, REPLICA_NODES, REPLICAS, ROUTER_NODES
from benchmarks.chaos.plan import Fault
from mesh_wire.settings import Simulation

STREAMS, TOKENS = 200, 400
STEP_S = 0.05  # 20 tokens a second each
LASTS_S = 15.0
INTO_S = 2.0  # after all streams have begun
VICTIM = REPLICA_NODES["general"][0]
PROFILE = Simulation(prefill_tokens_per_s=20_000, step_base_s=STEP_S, slots=512)
NOTICED_S, GOES_ON_S = 3.0, 1.0  # aims
# A soak costs a fraction of a core: slow steps, few places.
SOAKED = Simulation(prefill_tokens_per_s=20_000, step_base_s=0.5, slots=16)
SOAKED_TOKENS = (20, 40)
FULL = 0.7  # of the places of all engines are taken, on average


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them; `gap_s` is the aim for the 99th percentile of the longest gap, None where there is none."""

    words: str
    load: tuple[str, ...]
    gap_s: float | None
    fault: str = ""
    node: str = ""
    profile: Simulation = PROFILE
    steady: bool = False  # nothing is broken, for as long as is wished


def rate_of(profile: Simulation, places: int, tokens: tuple[int, int], full: float) -> float:
    """Return the requests a second that keep a share of all places taken."""
    answer_s = profile.step_base_s * sum(tokens) / 2
    return full * places / answer_s


SOAKED_RATE = rate_of(SOAKED, SOAKED.slots * REPLICAS * len(EXPERTS), SOAKED_TOKENS, FULL)
_STREAMS = ("--streams", str(STREAMS), "--tokens", str(TOKENS), str(TOKENS), "--experts", "general", "--named")
SCENARIOS = {
    "kill": Scenario(f"SIGKILL of one of three replicas under {STREAMS} streams", _STREAMS, GOES_ON_S, "kill", VICTIM),
    "swallow": Scenario(
        f"one of three replicas swallowed, without a reset, under {STREAMS} streams",
        _STREAMS,
        NOTICED_S + GOES_ON_S,
        "swallow",
        VICTIM,
    ),
    "stop": Scenario(
        f"SIGSTOP of one of three replicas under {STREAMS} streams", _STREAMS, NOTICED_S + GOES_ON_S, "stop", VICTIM
    ),
    "router": Scenario(
        f"SIGKILL of one of two routers under {STREAMS} streams", _STREAMS, None, "kill", ROUTER_NODES[0]
    ),
    "rolling": Scenario(
        "rolling restart of every process under 100 requests/s", ("--rate", "100", "--tokens", "5", "40"), None
    ),
    "soak": Scenario(
        f"no fault, {100 * FULL:.0f} % of all places taken by {SOAKED_RATE:.1f} requests/s",
        ("--rate", str(SOAKED_RATE), "--tokens", *map(str, SOAKED_TOKENS)),
        None,
        profile=SOAKED,
        steady=True,
    ),
}


async def play(scenario: Scenario, run: Run, minutes: float) -> None:
    """Do what a scenario is about, and see it through; `minutes` are for one that is steady."""
    if scenario.steady:
        await asyncio.sleep(max(0.0, run.began + 60 * minutes - time.monotonic()))
        await run.stop()
        return
    if not scenario.fault:
        await _rolling(run)
        await run.stop()
        return
    ends = time.monotonic() + 60
    while run.state.get("begun", 0) < STREAMS:
        if time.monotonic() > ends:
            raise NotUp(f"{run.state.get('begun', 0)} of {STREAMS} streams have begun")
        await asyncio.sleep(0.1)
    await asyncio.sleep(INTO_S)
    lasts_s = 0.0 if scenario.fault == "kill" else LASTS_S
    await run.do(Fault(time.monotonic() - run.began, scenario.fault, scenario.node, lasts_s))
    await run.carry_out([])
    await run.stop()


async def _rolling(run: Run) -> None:
    """Restart each process once, when all the others serve."""
    for node in (node for members in GROUPS.values() for node in members):
        await asyncio.wait_for(run.whole(), 60)
        await asyncio.sleep(1.0)
        await run.do(Fault(time.monotonic() - run.began, "term", node, 0.0))
        await run.carry_out([])
    await asyncio.wait_for(run.whole(), 60)
