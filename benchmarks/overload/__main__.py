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

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import report
from benchmarks.overload.asking import CALLERS, generator
from benchmarks.overload.figures import verdict
from benchmarks.overload.parts import PARTS, Course, Row, steady
from benchmarks.selection_fleet import fleet_of, router_of, simulated_engines
from mesh_wire import process
from mesh_wire.settings import Simulation

ENGINES, SLOTS = 2, 8
USERS = ENGINES * SLOTS + 12  # of the closed loop that finds the capacity: a queue is left
PROFILE = Simulation(prefill_tokens_per_s=8000, step_base_s=0.04, step_per_sequence_s=0.001, slots=SLOTS)
SETTINGS: dict[str, Any] = {"strategy": "round_robin", "max_in_flight": 1000, "admission": {}}
UNBOUNDED = {**SETTINGS, "admission": {"max_wait_s": 1e6}}

app = typer.Typer(add_completion=False, rich_markup_mode=None)


async def measured(
    loads: Sequence[float],
    seconds: float,
    deadline_s: float,
    parts: Sequence[str],
    unbounded: bool,
    more: dict[str, Any],
) -> list[Row]:
    """Run the parts that are named; return the figures of each, and those of all in `more`."""
    experts = simulated_engines(ENGINES, PROFILE)
    rows: list[Row] = []

    async def take(found: AsyncIterator[Row]) -> None:
        async for one in found:
            rows.append(one)
            print({key: _short(value) for key, value in one.items()}, file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="expertmesh-") as place:
        folder = Path(place)
        async with fleet_of(experts, folder):
            async with (
                router_of("bounded", SETTINGS, experts, folder) as address,
                generator(address, deadline_s) as asking,
            ):
                course = Course(asking, await asking.capacity(USERS, seconds), seconds, loads)
                for part in parts:
                    await take(PARTS[part](course))
            if unbounded:
                async with (
                    router_of("unbounded", UNBOUNDED, experts, folder) as address,
                    generator(address, deadline_s) as asking,
                ):
                    await take(steady(replace(course, asking=asking), "unbounded"))
    more |= {"capacity_per_s": course.capacity, **course.shares, **verdict(rows)}
    return rows


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


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
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    at = [float(load) for load in loads.split(",")]
    rows: list[Row] = []
    more: dict[str, Any] = {}

    async def measuring() -> int:
        rows.extend(await measured(at, seconds, deadline, parts, unbounded, more))
        return 0

    try:
        process.run(measuring())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    load = f"{ENGINES} engines of {SLOTS} places, {CALLERS} callers, deadline {deadline:g} s, {seconds:g} s each"
    report.show("overload", rows, as_json=as_json, load=load, **more)


if __name__ == "__main__":
    app()
