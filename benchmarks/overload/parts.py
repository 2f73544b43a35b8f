"""The parts of the measurement: how each asks, and its figures."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.overload.asking import CALLERS, WARM_S, Generator, alike, with_greedy
from benchmarks.overload.figures import row, shares

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Course:
    """What all parts go by."""

    asking: Generator
    capacity: float  # answers per second
    seconds: float  # of each part that count
    loads: Sequence[float]  # times the capacity
    shares: dict[str, Row] = field(default_factory=dict)  # of callers, by part


Part = Callable[[Course], AsyncIterator[Row]]


async def steady(course: Course, name: str = "steady") -> AsyncIterator[Row]:
    for load in course.loads:
        yield row(name, load, *await course.asking.open_loop(alike(load * course.capacity), course.seconds))


def unequal(name: str, rates_of: Callable[[float], Mapping[str, float]]) -> Part:
    """Return a part in which one caller asks more than the others; it notes their shares."""

    async def part(course: Course) -> AsyncIterator[Row]:
        rates = rates_of(course.capacity)
        asks, seconds = await course.asking.open_loop(rates, course.seconds)
        course.shares[name] = shares(asks)
        yield row(name, sum(rates.values()) / course.capacity, asks, seconds)

    return part


def twice(name: str, *, again: bool | str) -> Part:
    """Return a part at twice the capacity, in which whoever is refused comes again; see `Generator.ask`."""

    async def part(course: Course) -> AsyncIterator[Row]:
        rates = alike(2 * course.capacity)
        yield row(name, 2, *await course.asking.open_loop(rates, course.seconds, again=again))

    return part


async def burst(course: Course) -> AsyncIterator[Row]:
    """Ask too much for three seconds; the requests of these count."""
    background = asyncio.create_task(course.asking.open_loop(alike(course.capacity / 2), 16.0))
    await asyncio.sleep(WARM_S)
    found = await course.asking.open_loop(alike(3 * course.capacity), 3.0, warm_s=0.0, again=True)
    await background
    yield row("burst", 3, *found)


PARTS: Mapping[str, Part] = {
    "steady": steady,
    "greedy": unequal("greedy", lambda capacity: with_greedy(capacity / 10, capacity)),
    "light": unequal("light", lambda capacity: with_greedy(capacity / CALLERS / 2, 1.5 * capacity)),
    "retry": twice("retry", again=True),
    "anonymous": twice("anonymous", again="renamed"),
    "burst": burst,
}
