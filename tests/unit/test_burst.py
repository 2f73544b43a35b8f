"""Requests that come all at once, before any engine has said how long its steps take, spread evenly over equals.

Engines report through their own `LoadMeter`, step by step; only time, wires and the engines' work are models.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from expert_svc.load_board import LoadBoard
from expert_svc.load_meter import LoadMeter
from expertmesh.v1.expert_pb2 import Load
from router_svc.choosing.decision import Policy, Wish
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import select
from support.candidates import replica

EXPERT = "general"
POLICY = Policy(generalist=EXPERT, threshold=0.0)
REPLICAS, REQUESTS, PLACES, PROMPT_TOKENS = 4, 200, 64, 5
STEP_MS, REPORT_MS = 50, 50


@dataclass
class Engine:
    """One engine, millisecond by millisecond, and what a router knows of it."""

    name: str
    board: LoadBoard
    meter: LoadMeter
    reports_at: int
    told: Load = field(default_factory=Load)
    own_then: int = 0
    held: int = 0
    waiting: list[str] = field(default_factory=list)
    reading: list[str] = field(default_factory=list)
    running: int = 0
    step_ends: int | None = None

    def admit(self) -> None:
        self.held += 1
        self.waiting.append(str(self.held))
        self.meter.admit(str(self.held), PROMPT_TOKENS)

    def go_on(self, now: int) -> None:
        if self.step_ends is None and self.held:
            room = PLACES - self.running
            self.reading, self.waiting = self.waiting[:room], self.waiting[room:]
            self.running += len(self.reading)
            self.step_ends = now + STEP_MS
        elif self.step_ends == now:
            read = PROMPT_TOKENS * len(self.reading)
            self.meter.step(
                running=self.running,
                kv_cache_use=0,
                tokens=self.running,
                step_s=STEP_MS / 1000,
                prompt_tokens=read,
            )
            for request in self.reading:
                self.meter.begin(request)
            self.step_ends = None


def burst(seed: int, per_ms: int) -> float:
    """Return the most that any engine holds over the mean of all, once all requests have arrived."""
    draw, now = random.Random(seed), 0
    clock: Callable[[], float] = lambda: now / 1000  # noqa: E731  # reads the loop's variable
    engines = []
    for number in range(REPLICAS):
        board = LoadBoard()
        meter = LoadMeter(board, clock=clock)
        engines.append(Engine(f"e{number}", board, meter, reports_at=draw.randrange(REPORT_MS)))
    own, roster = dict.fromkeys((engine.name for engine in engines), 0), Roster()

    def see(engine: Engine) -> None:
        mine = own[engine.name]
        roster.put(
            replica(
                engine.name,
                EXPERT,
                load=engine.told,
                outstanding=mine,
                untold=mine - engine.own_then,
                max_running=PLACES,
                told_at=0.0,
            )
        )

    for engine in engines:
        see(engine)
    arriving: deque[Engine] = deque()
    chosen = 0
    while chosen < REQUESTS or arriving:
        now += 1
        while arriving:  # a wire takes a millisecond
            arriving.popleft().admit()
        for _ in range(min(per_ms, REQUESTS - chosen)):
            decision = select({}, roster, POLICY, Wish(pinned=EXPERT, chance=draw.random()))
            engine = next(one for one in engines if one.name == decision.chosen.replica)
            own[engine.name] += 1
            see(engine)
            arriving.append(engine)
            chosen += 1
        for engine in engines:
            engine.go_on(now)
            if now >= engine.reports_at:
                engine.reports_at += REPORT_MS
                engine.told, engine.own_then = engine.board.latest, own[engine.name]
                see(engine)
    return max(engine.held for engine in engines) * REPLICAS / REQUESTS


@pytest.mark.parametrize("per_ms", [1, 2, 4])
def test_a_burst_spreads_evenly_though_some_engines_tell_of_their_first_step_sooner(per_ms: int) -> None:
    ratios = [burst(seed, per_ms) for seed in range(12)]
    assert sum(ratios) / len(ratios) < 1.05
    assert max(ratios) < 1.1
