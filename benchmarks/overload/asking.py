"""Who asks: many callers over one session, by arrivals that wait for nobody."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.overload.figures import Ask
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh_client.load.arrivals import poisson
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, MeshError
from mesh_wire.outlets import StreamOutlet
from mesh_wire.serving import open_channel
from mesh_wire.session_caller import SessionCaller

PROMPT = "What is 12 times 13? " * 20  # about 100 tokens
TOKENS = (6, 18)  # of answers, evenly drawn
CALLERS = 11
WARM_S = 4.0  # at the beginning of each part, that do not count


@dataclass
class Generator:
    """Asks a router as many callers."""

    session: SessionCaller
    deadline_s: float
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    made: int = 0

    async def ask(self, ask: Ask, name: str, *, again: bool | str = False) -> None:
        """Ask once, and once more if that is refused and `again` says so: True, or "renamed"."""
        sampling = Sampling(max_new_tokens=self.chance.randint(*TOKENS), ignore_eos=True)
        request = GenerateRequest(prompt=PROMPT, sampling=sampling, request_id=name)
        outlet = StreamOutlet()
        try:
            await self.session.ask(
                request, outlet, Deadline.after(ask.due + self.deadline_s - time.monotonic()), ask.caller
            )
            ask.took_s = time.monotonic() - ask.due
        except MeshError as error:
            ask.failure = error.reason
            if isinstance(error, Busy):
                ask.told_s = error.retry_after_s
        if outlet.tally.first_at is not None:
            ask.first_s = outlet.tally.first_at - ask.due
        if again and ask.told_s is not None:
            await asyncio.sleep(ask.told_s)
            ask.again = Ask(ask.caller, time.monotonic())
            await self.ask(ask.again, f"{name} renamed" if again == "renamed" else name)

    def name(self) -> str:
        self.made += 1
        return f"r{self.made}"

    async def open_loop(
        self, rates: Mapping[str, float], seconds: float, *, warm_s: float = WARM_S, again: bool | str = False
    ) -> tuple[list[Ask], float]:
        """Ask as the callers' arrivals come; return what counts, all of it over, and the seconds that it spans."""
        arrivals = sorted(
            (at, caller) for caller, rate in rates.items() for at in poisson(rate, warm_s + seconds, self.chance)
        )
        began, asks = time.monotonic() + 0.1, []
        async with asyncio.TaskGroup() as tasks:
            for at, caller in arrivals:
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                ask = Ask(caller, began + at)
                tasks.create_task(self.ask(ask, self.name(), again=again))
                if at >= warm_s:
                    asks.append(ask)
        return asks, seconds

    async def capacity(self, users: int, seconds: float) -> float:
        """Return the answers per second of a closed loop."""
        until, done = time.monotonic() + WARM_S + seconds, 0

        async def user() -> None:
            nonlocal done
            while time.monotonic() < until:
                ask = Ask("", time.monotonic())
                await self.ask(ask, self.name())
                if ask.good and time.monotonic() >= until - seconds:
                    done += time.monotonic() < until
                elif ask.told_s is not None:
                    await asyncio.sleep(ask.told_s)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(users):
                tasks.create_task(user())
        return done / seconds


def alike(rate: float) -> dict[str, float]:
    return {f"caller-{n}": rate / CALLERS for n in range(CALLERS)}


def with_greedy(modest: float, greedy: float) -> dict[str, float]:
    return {**{f"caller-{n}": modest for n in range(CALLERS - 1)}, "greedy": greedy}


@asynccontextmanager
async def generator(address: str, deadline_s: float) -> AsyncIterator[Generator]:
    async with open_channel(address) as channel:
        session = SessionCaller(channel)
        try:
            yield Generator(session, deadline_s)
        finally:
            await session.close()
