"""What share of our router is grpcio itself: a bare `grpc.aio` server in the router's place.

The bare server (`data_plane/floor.py`) writes tokens that it has ready: no upstream, no interceptor, no parsing. It
stands where the router stands in `benchmarks.data_plane`, on the same core, asked by the same client, in turn with the
router and with a relay by hand. What the router costs above it is the router's own work, reading from the engines
included; what is below, only another gRPC server would save.
"""

from dataclasses import replace
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.data_plane.host import cores
from benchmarks.data_plane.loads import FULL, QUICK, Load, parse
from benchmarks.data_plane.measure import Cell
from benchmarks.data_plane.readers import over_session, plain
from benchmarks.data_plane.rounds import measure
from benchmarks.data_plane.ways import Way
from benchmarks.report import show
from mesh_wire.process import run

LOADS = ("1000x20", "32x100", "requests")
ENGINES = CONNECTIONS = 4
GENERATE, NAIVE = Way("generate", "router", plain, "generate"), Way("naive relay", "naive", plain)
SESSION = Way("session", "router", over_session, "session")


def floors(load: Load) -> list[Way]:
    """Return the bare servers for a load: one that keeps its rate, or one for each number of messages."""
    if load.steady:
        process = f"{load.rate:g} 1 {load.replicas(ENGINES)}"
        ways = (("bare generate", plain), ("bare session", over_session))
        return [Way(name, "floor", opened, process, only=load.name) for name, opened in ways]
    return [
        Way(f"bare generate, {count} message{'s' * (count > 1)}", "floor", plain, f"0 {count} 1", only=load.name)
        for count in (1, 2, 3)
    ]


def row_of(load: Load, way: Way, cells: list[Cell], ours: list[Cell]) -> dict[str, Any]:
    """Return a server's figures under a load: what a token, or a one-token request, costs there, and its share."""

    def us_per(counted: str, found: list[Cell]) -> float:
        return 1e6 * median([cell.middle_s / max(1, int(getattr(cell, counted))) for cell in found])

    unit = "tokens" if load.steady else "requests"
    return {
        "load": load.name,
        "server": way.name,
        "us_per_token": us_per("tokens", cells) if load.steady else None,
        "us_per_message": us_per("deltas", cells) if load.steady else None,
        "us_per_request": None if load.steady else us_per("requests", cells),
        "of_ours": us_per(unit, cells) / us_per(unit, ours),
        "delivered": median(cell.tokens / cell.due for cell in cells) if load.steady else None,
        "cpu": median(cell.middle_s / cell.window_s for cell in cells),
        "generator_cpu": median((cell.client_s + cell.backend_s) / cell.window_s for cell in cells),
        "others_cpu": median(cell.other_s[0] / cell.window_s for cell in cells),
        "errors": sum(len(cell.errors) for cell in cells),
    }


def command(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median is shown.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Short windows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a bare grpc.aio server beside our router and a relay by hand."""
    loads = [parse(name) for name in LOADS]
    ways = [GENERATE, SESSION, NAIVE, *(floor for load in loads for floor in floors(load))]
    timing = replace(QUICK if quick else FULL, rounds=rounds)
    middle_core, generator_core = cores()
    rows: list[dict[str, Any]] = []

    async def measuring() -> int:
        found = await measure(loads, ways, timing, ENGINES, CONNECTIONS)
        for load in loads:
            for way in (way for way in ways if way.under(load)):
                ours = SESSION if way.open is over_session else GENERATE
                rows.append(row_of(load, way, found[load.name, way.name], found[load.name, ours.name]))
        return 0

    try:
        run(measuring())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    load = (
        f"core {middle_core}: the server alone; core {generator_core}: client and engines; medians of {rounds} rounds;"
        " our Generate sends 3 messages for a one-token answer; others_cpu: of the server's core, by other processes"
    )
    show("grpcio's share of our router", rows, as_json=as_json, load=load)


if __name__ == "__main__":
    typer.run(command)
