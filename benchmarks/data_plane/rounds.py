"""Every way under every load, round by round."""

import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.data_plane.host import Child, cores, python
from benchmarks.data_plane.loads import Load, Timing
from benchmarks.data_plane.measure import Bench, Cell, Controls
from benchmarks.data_plane.ways import Middles, Way

Key = tuple[str, str]  # load, way
START_S = 3.0  # of a middle
LONGEST_S = 590.0  # of a run whose rounds nobody asked for: on a busy machine it makes fewer of them


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


async def measure(
    loads: list[Load],
    ways: list[Way],
    timing: Timing,
    backends: int,
    connections: int,
    longest_s: float = math.inf,
) -> dict[Key, list[Cell]]:
    """Run every round of every load, the ways in turn; no further round where it would end after `longest_s`."""
    found: dict[Key, list[Cell]] = defaultdict(list)
    usable, (middle_core, generator_core) = os.sched_getaffinity(0), cores()
    os.sched_setaffinity(0, {generator_core})
    plan = [(load, way) for load in loads for way in ways if way.under(load)]
    starts = {(way.middle, way.process, load.replicas(backends)) for load, way in plan if way.middle != "none"}
    left_s = timing.rounds * sum(timing.cell_s(load) for load, _ in plan) + START_S * len(starts)
    say(f"plan: {len(plan)} cells × {timing.rounds} rounds, about {minutes(left_s)}")
    began, done = time.monotonic(), 0
    ends = began + left_s
    with ExitStack() as life:
        life.callback(os.sched_setaffinity, 0, usable)
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        backend, ports, controls = await open_backend(backends, generator_core, folder, life)
        middles = Middles(folder, middle_core, life)
        bench = Bench(controls, backend, (middle_core, generator_core), timing)
        for number in range(timing.rounds):
            if (time.monotonic() - began) * (number + 1) > longest_s * max(1, number):
                say(f"the rounds end after {number}: another would take longer than {minutes(longest_s)} in all")
                break
            for load in loads:
                under = [way for way in ways if way.under(load)]
                for way in under[number % max(1, len(under)) :] + under[: number % max(1, len(under))]:
                    done += 1
                    say(
                        f"[{done}/{timing.rounds * len(plan)}] round {number + 1}: {load.title}: {way.name}"
                        f" - {minutes(max(0.0, ends - time.monotonic()))} left"
                    )
                    middle = await middles.of(way, ports[: load.replicas(backends)])
                    cell = await bench.cell(load, way, middle, load.connections(connections))
                    found[load.name, way.name].append(cell)
    return found


async def open_backend(count: int, core: int, folder: Path, life: ExitStack) -> tuple[Child, list[int], Controls]:
    """Start the engines; returns their process, their ports and the line to them."""
    where = folder / "backend-ports"
    backend = Child(python("benchmarks.data_plane.backend", str(count), str(where)), core, folder / "backend")
    life.callback(backend.kill)
    told: dict[str, Any] = json.loads(await backend.wrote(where))
    return backend, told["ports"], Controls(*await asyncio.open_connection("127.0.0.1", told["controls"]))


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
