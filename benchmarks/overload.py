"""What overload leaves of a mesh: goodput, first tokens, shares of callers, and whether times to retry are true.

    python -m benchmarks.overload [--seconds 30] [--loads 0.9,1,2,5] [--only PARTS] [--deadline 4] [--unbounded]

A router and two experts with simulated engines, each a process; requests arrive as a Poisson process that waits for
nobody, from eleven callers. The fleet's capacity is what it answers in a closed loop that keeps a queue. Then:

    steady     eleven alike, at so many times the capacity; nobody who is refused comes again
    greedy     at twice the capacity, one of the eleven asks ten times as much as each other
    light      the same, but the ten ask for half of their fair share each, and the greedy one for all the rest and more
    retry      at twice the capacity, and whoever is refused comes again once, when told to, under the same name
    anonymous  the same under another name, by which the router does not know it again
    burst      three times the capacity for three seconds, a half before and after; whoever is refused comes again

Goodput counts the answers that were complete within the deadline, per second. Times count from the moment at which a
request was meant to be made. With `--unbounded`, a queue without a bound is put beside these: what was before.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import report
from benchmarks.selection_fleet import EXPERTS, fleet_of, free_port, router_of
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh_client.load.arrivals import poisson
from mesh_wire import process
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import Busy, MeshError
from mesh_wire.outlets import StreamOutlet
from mesh_wire.serving import open_channel
from mesh_wire.session_caller import SessionCaller
from mesh_wire.settings import Simulation

ENGINES, SLOTS = 2, 8
PROFILE = Simulation(prefill_tokens_per_s=8000, step_base_s=0.04, step_per_sequence_s=0.001, slots=SLOTS)
PROMPT = "What is 12 times 13? " * 20  # about 100 tokens
TOKENS = (6, 18)  # of answers, evenly drawn
CALLERS = 11
WARM_S = 4.0  # at the beginning of each part, that do not count
UNBOUNDED = {"max_wait_s": 1e6}
PARTS = ("steady", "greedy", "light", "retry", "anonymous", "burst")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(slots=True)
class Ask:
    """One request, and what became of it. Times are seconds."""

    caller: str
    due: float
    first_s: float | None = None
    took_s: float | None = None
    failure: str = ""
    told_s: float | None = None
    again: "Ask | None" = None  # the same, when it came again

    @property
    def good(self) -> bool:
        return self.took_s is not None


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
        self, rates: Mapping[str, float], seconds: float, *, again: bool | str = False
    ) -> tuple[list[Ask], float]:
        """Ask as the callers' arrivals come; return what counts, all of it over, and the seconds that it spans."""
        arrivals = sorted(
            (at, caller) for caller, rate in rates.items() for at in poisson(rate, WARM_S + seconds, self.chance)
        )
        began, asks = time.monotonic() + 0.1, []
        async with asyncio.TaskGroup() as tasks:
            for at, caller in arrivals:
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                ask = Ask(caller, began + at)
                tasks.create_task(self.ask(ask, self.name(), again=again))
                if at >= WARM_S:
                    asks.append(ask)
        return asks, seconds

    async def capacity(self, seconds: float) -> float:
        """Return the answers per second of a closed loop that keeps a queue."""
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
            for _ in range(ENGINES * SLOTS + 12):
                tasks.create_task(user())
        return done / seconds


def row(part: str, load: float, asks: Sequence[Ask], seconds: float) -> dict[str, Any]:
    """Return the figures of one part."""
    retries = [ask.again for ask in asks if ask.again is not None]
    good = [ask for ask in (*asks, *retries) if ask.good]
    first = [ask.first_s for ask in good if ask.first_s is not None]
    told = [ask.told_s for ask in asks if ask.told_s is not None]
    reasons = [ask.failure for ask in (*asks, *retries) if ask.failure]
    late = [ask for ask in asks if ask.failure and ask.told_s is None]
    return {
        "part": part,
        "load": load,
        "asked_per_s": len(asks) / seconds,
        "goodput_per_s": len(good) / seconds,
        "first_p50_s": report.percentile(first, 0.5) if first else None,
        "first_p99_s": report.percentile(first, 0.99) if first else None,
        "refused": len(told) / len(asks),
        "failed": len(late) / len(asks),
        "reasons": ", ".join(f"{reason} {many}" for reason, many in Counter(reasons).most_common()),
        "told_p50_s": report.median(told) if told else None,
        "told_p99_s": report.percentile(told, 0.99) if told else None,
        "retries": len(retries),
        "retried_well": sum(ask.good for ask in retries) / len(retries) if retries else None,
    }


def shares(asks: Sequence[Ask]) -> dict[str, Any]:
    """Return what the modest callers got of their fair shares of all that was answered, the least and the median, and
    the greedy one."""
    asked, got = Counter(ask.caller for ask in asks), Counter(ask.caller for ask in asks if ask.good)
    fair = fair_shares(asked, got.total())
    modest = [got[name] / fair[name] for name in asked if name != "greedy"]
    return {
        "least_of_fair": min(modest),
        "median_of_fair": report.median(modest),
        "greedy_of_fair": got["greedy"] / fair["greedy"],
    }


def fair_shares(rates: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Share a capacity out: nobody gets more than it asks for, and who asks for more gets as much as others do."""
    fair: dict[str, float] = {}
    left = capacity
    for at, name in enumerate(sorted(rates, key=lambda name: rates[name])):
        fair[name] = min(rates[name], left / (len(rates) - at))
        left -= fair[name]
    return fair


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


async def burst(asking: Generator, capacity: float) -> tuple[list[Ask], float]:
    """Ask too much for three seconds; return the requests of these."""
    calm, crowd = alike(capacity / 2), alike(3 * capacity)

    async def later() -> tuple[list[Ask], float]:
        began = time.monotonic()
        arrivals = sorted((at, name) for name, rate in crowd.items() for at in poisson(rate, 3.0, asking.chance))
        asks = []
        async with asyncio.TaskGroup() as tasks:
            for at, name in arrivals:
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                asks.append(Ask(name, began + at))
                tasks.create_task(asking.ask(asks[-1], asking.name(), again=True))
        return asks, 3.0

    background = asyncio.create_task(asking.open_loop(calm, 16.0))
    await asyncio.sleep(WARM_S)
    asks = await later()
    await background
    return asks


async def measured(
    loads: Sequence[float], seconds: float, deadline_s: float, parts: Sequence[str], unbounded: bool
) -> dict[str, Any]:
    """Run the parts that are named."""
    sections = [
        {
            "name": f"expert-{n}",
            "listen": f"127.0.0.1:{free_port()}",
            "serves": dict.fromkeys(EXPERTS),
            "simulated": PROFILE.model_dump(exclude_defaults=True),
            "drain_grace_s": 0,
        }
        for n in range(ENGINES)
    ]
    settings: dict[str, Any] = {"strategy": "round_robin", "max_in_flight": 1000, "admission": {}}
    rows: list[dict[str, Any]] = []
    more: dict[str, Any] = {}

    def note(one: dict[str, Any]) -> None:
        rows.append(one)
        print(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in one.items()}, file=sys.stderr
        )

    with tempfile.TemporaryDirectory(prefix="expertmesh-") as place:
        folder = Path(place)
        async with fleet_of(sections, folder):
            async with (
                router_of("bounded", settings, sections, folder) as address,
                generator(address, deadline_s) as asking,
            ):
                capacity = more["capacity_per_s"] = await asking.capacity(seconds)
                for load in loads if "steady" in parts else ():
                    note(row("steady", load, *await asking.open_loop(alike(load * capacity), seconds)))
                for part, rates in (
                    ("greedy", with_greedy(capacity / 10, capacity)),
                    ("light", with_greedy(capacity / CALLERS / 2, 1.5 * capacity)),
                ):
                    if part not in parts:
                        continue
                    found = await asking.open_loop(rates, seconds)
                    load = sum(rates.values()) / capacity
                    note(row(part, load, *found))
                    more[part] = {key: round(each, 3) for key, each in shares(found[0]).items()}
                if "retry" in parts:
                    note(row("retry", 2, *await asking.open_loop(alike(2 * capacity), seconds, again=True)))
                if "anonymous" in parts:
                    note(row("anonymous", 2, *await asking.open_loop(alike(2 * capacity), seconds, again="renamed")))
                if "burst" in parts:
                    note(row("burst", 3, *await burst(asking, capacity)))
            if unbounded:
                old = {**settings, "admission": UNBOUNDED}
                async with (
                    router_of("unbounded", old, sections, folder) as address,
                    generator(address, deadline_s) as asking,
                ):
                    for load in loads:
                        note(row("unbounded", load, *await asking.open_loop(alike(load * capacity), seconds)))
    more.update(verdict(rows, more))
    return {"rows": rows, **more}


def verdict(rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the targets beside what was measured."""
    steady = {each["load"]: each for each in rows if each["part"] == "steady"}
    if not steady:
        return {}
    peak = max(each["goodput_per_s"] for each in steady.values())
    calm = steady.get(0.9)
    return {
        "goodput_of_peak": {load: round(each["goodput_per_s"] / peak, 3) for load, each in steady.items()},
        "first_p99_of_that_at_0.9": {
            load: round(each["first_p99_s"] / calm["first_p99_s"], 2) for load, each in steady.items()
        }
        if calm
        else None,
    }


@app.command()
def command(
    seconds: Annotated[float, typer.Option(help="of each part that count")] = 30.0,
    loads: Annotated[str, typer.Option(help="times the capacity")] = "0.9,1,2,5",
    deadline: Annotated[float, typer.Option(help="seconds that a caller waits for a whole answer")] = 4.0,
    only: Annotated[str, typer.Option(help="parts, with commas")] = ",".join(PARTS),
    unbounded: Annotated[bool, typer.Option("--unbounded", help="also a queue without a bound")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure what overload leaves."""
    parts = only.split(",")
    if unknown := set(parts) - {*PARTS}:
        raise typer.BadParameter(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    at = [float(load) for load in loads.split(",")]
    found = process.run(measured(at, seconds, deadline, parts, unbounded))
    rows = found.pop("rows")
    load = f"{ENGINES} engines of {SLOTS} places, {CALLERS} callers, deadline {deadline:g} s, {seconds:g} s each"
    report.show("overload", rows, as_json=as_json, load=load, **found)


if __name__ == "__main__":
    app()
