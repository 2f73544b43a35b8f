"""Does a router hold thousands of open streams, and what does each weigh: 5,000 streams of 5 tokens/s, by stages.

One router process on a core of its own, the engines and the client of `benchmarks.data_plane` on the other; a fresh
router for each way. At each stage the streams so far stay open and more come, 500 a second; then, in one window, memory
(PSS), its peak, open files, CPU, tokens delivered of those due, the largest gap of each stream, streams that still had
no token after 30 s, and errors are taken. At the end the client leaves, and nothing may be left running. File
descriptors are counted before, and the limit raised.
"""

import asyncio
import math
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.data_plane.host import Child, cores
from benchmarks.data_plane.loads import PER_REPLICA
from benchmarks.data_plane.measure import ENDLESS
from benchmarks.data_plane.readers import Caller, Reading
from benchmarks.data_plane.rounds import open_backend
from benchmarks.data_plane.ways import PINNED, WAYS, Middles, Way
from benchmarks.prompts import prompt
from benchmarks.report import percentile, show
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from mesh_wire.process import run, say_error

CHOICES = {way.name: way for way in WAYS if way.name in ("session", "generate")}
BEGINNING_PER_S = 500  # streams
BEGUN_WITHIN_S = 30.0
SETTLE_S = 2.0
SPARE_FILES = 200  # that a process has open beside its connections


class Crowd:
    """The streams that are open."""

    def __init__(self, callers: Sequence[Caller]) -> None:
        self.readings: list[Reading] = []
        self._callers = callers
        self._cancels: list[Callable[[], None]] = []

    async def grow(self, streams: int) -> int:
        """Open streams until there are so many; returns how many had no token after `BEGUN_WITHIN_S`."""
        loop = asyncio.get_running_loop()
        while (number := len(self.readings)) < streams:
            request = GenerateRequest(
                prompt=prompt(number), expert=PINNED, sampling=Sampling(max_new_tokens=ENDLESS, ignore_eos=True)
            )
            self.readings.append(Reading(ENDLESS))
            self._cancels.append(self._callers[number % len(self._callers)].ask(request, self.readings[-1]))
            if number % 10 == 9:
                await asyncio.sleep(10 / BEGINNING_PER_S)
        ends = loop.time() + BEGUN_WITHIN_S
        while True:
            unbegun = sum(not one.tokens for one in self.readings)
            if not unbegun or loop.time() > ends:
                return unbegun
            await asyncio.sleep(0.05)

    def leave(self) -> None:
        for cancel in self._cancels:
            cancel()


async def measure(
    way: Way, stages: Sequence[int], rate: float, connections: int, window_s: float
) -> list[dict[str, Any]]:
    """Return a row for each stage, and one for the time after all have left."""
    middle_core, generator_core = cores()
    with ExitStack() as life:
        life.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {generator_core})
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        _, ports, controls = await open_backend(math.ceil(max(stages) / PER_REPLICA), generator_core, folder, life)
        await controls.tell(interval_s=1 / rate)
        middle = await Middles(folder, middle_core, life).of(way, ports)
        router = middle.child
        assert router is not None
        router.resume()
        callers = [await way.open(middle.ports[0]) for _ in range(connections)]
        await _used_once(callers)
        crowd = Crowd(callers)
        rows = [await _stage(way, crowd, streams, rate, window_s, router) for streams in stages]
        crowd.leave()
        for caller in callers:
            await caller.close()
        stayed = await controls.stayed()
        left = dict.fromkeys(rows[0]) | {"way": way.name, "streams": "all left", "memory_mb": router.held_mb()}
        return [*rows, left | {"peak_mb": router.peak_mb(), "files": router.descriptors(), "errors": stayed}]


async def _used_once(callers: Sequence[Caller]) -> None:
    """Have each connection used: what memory it takes is none of the streams'."""
    for caller in callers:
        reading = Reading(1)
        caller.ask(GenerateRequest(prompt="Hello", expert=PINNED, sampling=Sampling(max_new_tokens=1)), reading)
        await asyncio.wait_for(reading.done, BEGUN_WITHIN_S)
        if reading.failed:
            raise RuntimeError(f"the router does not answer: {reading.failed}")


async def _stage(way: Way, crowd: Crowd, streams: int, rate: float, window_s: float, router: Child) -> dict[str, Any]:
    print(f"{way.name}: {streams:,} streams", file=sys.stderr, flush=True)
    unbegun = await crowd.grow(streams)
    await asyncio.sleep(SETTLE_S)
    clock = asyncio.get_running_loop().time
    cpu, began = router.cpu_s(), clock()
    tokens = sum(one.tokens for one in crowd.readings)
    for one in crowd.readings:
        one.mark()
    await asyncio.sleep(window_s)
    took_s, cpu = clock() - began, router.cpu_s() - cpu
    arrived = sum(one.tokens for one in crowd.readings) - tokens
    gaps_ms = [1e3 * one.gap_s() for one in crowd.readings]
    failed = [one.failed for one in crowd.readings if one.failed]
    if failed:
        print(f"{way.name}: {len(failed)} failed, the first: {failed[0][:200]}", file=sys.stderr)
    return {
        "way": way.name,
        "streams": streams,
        "memory_mb": router.held_mb(),
        "peak_mb": router.peak_mb(),
        "files": router.descriptors(),
        "delivered": arrived / (streams * rate * took_s) if streams else None,
        "gap_p50_ms": percentile(gaps_ms, 0.5) if streams else None,
        "gap_p99_ms": percentile(gaps_ms, 0.99) if streams else None,
        "cpu": cpu / took_s,
        "us_per_token": 1e6 * cpu / arrived if arrived else None,
        "unbegun": unbegun,
        "errors": len(failed),
    }


def per_stream(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the kB that each stream weighs: over all stages, and within each, which are alike where growth is
    linear."""
    points = [(row["streams"], row["memory_mb"]) for row in rows if isinstance(row["streams"], int)]
    within = [1000 * (b - a) / (n - m) for (m, a), (n, b) in pairwise(points)]
    (first, at_first), (last, at_last) = points[0], points[-1]
    return {
        "kb_per_stream": round(1000 * (at_last - at_first) / (last - first), 1),
        "kb_per_stream_by_stage": [round(one, 1) for one in within],
    }


def ready_for(connections: int) -> None:
    """Raise the limit of open files to what is needed, for this process and those that it starts.

    Raises:
        OSError: the system does not allow so many.
    """
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise OSError(f"{needed} open files are needed and {hard} are allowed: raise the limit (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def command(
    streams: Annotated[
        int, typer.Option(min=8, help="Open streams in the end; also a quarter and half of them.")
    ] = 5000,
    rate: Annotated[float, typer.Option(min=0.1, help="Tokens per second of each.")] = 5.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections that share them, one session on each.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long each stage is watched.")] = 5.0,
    only: Annotated[str, typer.Option(help=f"One way alone: {' or '.join(CHOICES)}.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what thousands of open streams weigh in a router."""
    if only and only not in CHOICES:
        raise typer.BadParameter(f"no such way: {only}; there are {', '.join(CHOICES)}")
    stages = (0, streams // 4, streams // 2, streams)
    rows: list[dict[str, Any]] = []
    weights: dict[str, Any] = {}

    async def measuring() -> int:
        for name, way in CHOICES.items():
            if only in ("", name):
                found = await measure(way, stages, rate, connections, seconds)
                rows.extend(found)
                weights[name] = per_stream(found)
        return 0

    try:
        ready_for(connections)
        run(measuring())
    except (OSError, RuntimeError) as error:
        say_error(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    middle_core, generator_core = cores()
    load = (
        f"up to {streams:,} streams × {rate:g} tokens/s over {connections} connections; core {middle_core}: the router"
        f" alone; core {generator_core}: client and engines; in the last row of a way, errors are answers that went on"
    )
    show("many open streams", rows, as_json=as_json, load=load, **weights)


if __name__ == "__main__":
    typer.run(command)
