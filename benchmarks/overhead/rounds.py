"""Rounds: each way in turn, one wave of the same work by each, and what each process used for it.

A wave is a fixed number of answers of a fixed length, by an engine that steps at a fixed pace, so that a busy machine
makes it later but hardly different: what is counted is CPU, and tokens merge only where a reader is a step late.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import geometric_mean

from benchmarks.overhead.mesh import Processes
from benchmarks.overhead.reference import Reference
from benchmarks.prompts import prompt
from expertmesh_client.aio import AsyncClient

SIMULATION = {"step_base_s": 0.02}
USERS = 24
TOKENS = 16
ANSWERS_WITHIN_S = 60.0

# Each way from client to engine, and whose CPU it takes.
HOPS: Mapping[str, Sequence[str]] = {
    "direct": ("client", "expert"),
    "session": ("client", "router", "expert"),
    "generate": ("client", "router", "expert"),
}
ALL = "all"  # ways together: a hop that is slower by each of them is told apart from noise sooner
FIGURES = {**HOPS, ALL: HOPS["session"]}


@dataclass(frozen=True)
class Wave:
    """What one wave took."""

    tokens: int
    unit_s: float  # what the calibration took around it
    cpu_s: Mapping[str, float]  # hop -> CPU

    def cost(self, hop: str) -> float:
        """Return a hop's CPU per token, in units of the calibration."""
        return self.cpu_s[hop] / self.tokens / self.unit_s


Round = Mapping[str, Wave]  # way -> its wave


def cost(one: Round, way: str, hop: str) -> float:
    """Return what a hop cost in a round by one way, or by all: the geometric mean over those that have it."""
    if way != ALL:
        return one[way].cost(hop)
    return geometric_mean(wave.cost(hop) for wave in one.values() if hop in wave.cpu_s)


def share(one: Round, way: str, hop: str) -> float:
    """Return a hop's share of the CPU of all hops, by one way or by all."""
    waves = [*one.values()] if way == ALL else [one[way]]
    return sum(wave.cpu_s[hop] for wave in waves if hop in wave.cpu_s) / sum(sum(w.cpu_s.values()) for w in waves)


class Ways:
    """All ways, ready to be asked. Made by `open_ways`."""

    def __init__(self, processes: Processes, reference: Reference, clients: Mapping[str, AsyncClient]) -> None:
        self._processes = processes
        self._reference = reference
        self._clients = clients
        self._made = 0

    async def round(self) -> Round:
        """Make one wave by each way; each round begins with another one."""
        names = [*self._clients]
        first = self._made % len(names)
        self._made += 1
        return {way: await self.wave(way) for way in names[first:] + names[:first]}

    async def wave(self, way: str) -> Wave:
        """Make one wave by one way."""
        gc.collect()
        gc.disable()
        try:
            steps, unit_s = await self._reference.so_far()
            before = self._used_s()
            tokens = await _wave(self._clients[way])
            after = self._used_s()
            steps_after, unit_after_s = await self._reference.so_far()
        finally:
            gc.enable()
        unit_s = (unit_after_s - unit_s) / max(1, steps_after - steps)
        return Wave(tokens, unit_s, {hop: after[hop] - before[hop] for hop in HOPS[way]})

    def _used_s(self) -> dict[str, float]:
        return {"client": time.process_time(), **self._processes.used_s()}


@asynccontextmanager
async def open_ways(processes: Processes, reference: Reference) -> AsyncIterator[Ways]:
    """Connect by every way and use each once, until the block ends."""
    async with AsyncExitStack() as life:
        router, expert = processes.router.address, processes.expert.address
        clients = {
            "direct": await life.enter_async_context(AsyncClient(expert)),
            "session": await life.enter_async_context(AsyncClient(router)),
            "generate": await life.enter_async_context(AsyncClient(router, over="generate")),
        }
        ways = Ways(processes, reference, clients)
        await ways.round()
        yield ways


async def _wave(client: AsyncClient) -> int:
    """Have every user ask once, all at once; returns the tokens that came."""
    return sum(await asyncio.gather(*(_answer(client, user) for user in range(USERS))))


async def _answer(client: AsyncClient, user: int) -> int:
    answer = client.generate(
        prompt(user),
        sampling={"temperature": 0, "max_new_tokens": TOKENS, "ignore_eos": True},
        timeout_s=ANSWERS_WITHIN_S,
    )
    await answer.read()
    assert answer.finished is not None
    return answer.finished.usage.completion_tokens
