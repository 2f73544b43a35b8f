"""One way under one load: ask, wait until it is steady, and take what was used and what arrived in a window."""

import asyncio
import gc
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.data_plane.host import Child, busy_s
from benchmarks.data_plane.loads import Load, Timing
from benchmarks.data_plane.readers import Caller, Reading
from benchmarks.data_plane.ways import Middle, Way
from benchmarks.prompts import prompt
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling

ENDLESS = 1_000_000  # tokens of an answer that outlives its window
FIRST_TOKENS_S = 6.0  # how long steady streams may take to begin
PROBES_PER_S = 60
GIVE_UP_S = 2.0  # a first token later than this counts as this late
LEAVING_S = 5.0  # how long it may take until nothing runs any more after the client has left


@dataclass
class Cell:
    """What one way did in one window."""

    window_s: float = 0.0
    tokens: int = 0  # arrived; or decisions
    deltas: int = 0  # in how many pieces
    due: float = 0.0  # tokens at the nominal rate; 0 in a closed loop
    requests: int = 0  # ended; where decisions alone are asked for, messages
    middle_s: float = 0.0  # CPU
    backend_s: float = 0.0
    client_s: float = 0.0
    other_s: tuple[float, float] = (0.0, 0.0)  # CPU that others used of the middle's core, and of the generator's
    gaps_s: list[float] = field(default_factory=list)  # the largest of each stream
    first_s: list[float] = field(default_factory=list)  # times to first token
    errors: list[str] = field(default_factory=list)
    peak_mb: float = 0.0
    lost_steps: int = 0  # that the engines were late by
    unbegun: int = 0  # streams without a token when the window began
    stayed: int = 0  # answers that the engines still gave long after the client had left


class Controls:
    """The line to the engines."""

    def __init__(self, lines: asyncio.StreamReader, orders: asyncio.StreamWriter) -> None:
        self._lines, self._orders = lines, orders

    async def tell(self, **order: float) -> dict[str, int]:
        """Give an order, or none; returns the engines' counts."""
        self._orders.write(json.dumps(order).encode() + b"\n")
        counts: dict[str, int] = json.loads(await self._lines.readline())
        return counts

    async def stayed(self) -> int:
        """Wait until nothing is answered any more; returns how many answers still are long after their caller left."""
        ends = time.monotonic() + LEAVING_S
        while True:
            still = (await self.tell())["open"]
            if not still or time.monotonic() > ends:
                return still
            await asyncio.sleep(0.05)


class Bench:
    """Measures; made once for all cells."""

    def __init__(self, controls: Controls, backend: Child, cores: tuple[int, int], timing: Timing) -> None:
        self._controls, self._backend, self._cores, self._timing = controls, backend, cores, timing
        self._numbers = itertools.count()

    async def cell(self, load: Load, way: Way, middle: Middle, connections: int) -> Cell:
        """Measure one way under one load."""
        cell = Cell()
        if middle.child is not None:
            middle.child.resume()
            middle.child.forget_peak()
        await self._controls.tell(interval_s=load.interval_s)
        callers = [await way.open(middle.ports[at % len(middle.ports)]) for at in range(connections)]
        try:
            await self._warm(callers, way)
            await (self._endless if load.endless else self._closed)(cell, load, way, middle, callers)
            if middle.child is not None:
                cell.peak_mb = middle.child.peak_mb()
        finally:
            for caller in callers:
                await caller.close()
            cell.stayed = await self._controls.stayed()
            if middle.child is not None and cell.stayed:
                middle.child.kill()  # nothing else frees the engines of what it asked; it starts afresh next time
            elif middle.child is not None:
                middle.child.pause()
        return cell

    def _ask(self, caller: Caller, way: Way, wanted: int) -> tuple[Reading, Callable[[], None]]:
        request = GenerateRequest(
            prompt=prompt(next(self._numbers)),
            expert=way.expert,
            sampling=Sampling(temperature=0, max_new_tokens=wanted, ignore_eos=True),
        )
        reading = Reading(wanted)
        return reading, caller.ask(request, reading)

    async def _warm(self, callers: list[Caller], way: Way) -> None:
        """Have each connection used until it answers: a middle that stood still may have to find itself first."""
        ends = time.monotonic() + 10
        for caller in callers * 2:
            while True:
                reading, _ = self._ask(caller, way, way.decisions)
                await asyncio.wait((reading.done,), timeout=5)
                if reading.done.done() and not reading.failed:
                    break
                if time.monotonic() > ends:
                    raise RuntimeError(f"{way.name} does not answer: {reading.failed or 'nothing came'}")
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _window(self, cell: Cell, middle: Middle) -> AsyncIterator[None]:
        """Take what the processes use while the block sleeps for the window."""

        def used() -> tuple[float, ...]:
            child = middle.child
            busy = [busy_s(core) for core in self._cores]
            return (child.cpu_s() if child else 0.0, self._backend.cpu_s(), time.process_time(), *busy)

        gc.collect()
        gc.disable()
        lost = (await self._controls.tell())["lost"]
        before, began = used(), time.perf_counter()
        try:
            yield
        finally:
            cell.window_s = time.perf_counter() - began
            gc.enable()
        cell.middle_s, cell.backend_s, cell.client_s, *busy = (
            now - then for now, then in zip(used(), before, strict=True)
        )
        cell.other_s = (max(0.0, busy[0] - cell.middle_s), max(0.0, busy[1] - cell.backend_s - cell.client_s))
        cell.lost_steps = (await self._controls.tell())["lost"] - lost

    async def _endless(self, cell: Cell, load: Load, way: Way, middle: Middle, callers: list[Caller]) -> None:
        asked: list[tuple[Reading, Callable[[], None]]] = []
        began, ramp_s = time.perf_counter(), self._timing.ramp_s(load)
        for number in range(load.streams):
            asked.append(self._ask(callers[number % len(callers)], way, ENDLESS))
            await asyncio.sleep(max(0.0, began + ramp_s * (number + 1) / load.streams - time.perf_counter()))
        readings = [reading for reading, _ in asked]
        ends = time.perf_counter() + FIRST_TOKENS_S
        while True:
            cell.unbegun = sum(not one.tokens for one in readings)
            if not cell.unbegun or time.perf_counter() > ends:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(self._timing.settle_s(load))
        async with self._window(cell, middle):
            start, before, pieces = time.perf_counter(), *_arrived(readings)
            for one in readings:
                one.mark()
            await asyncio.sleep(self._timing.window_s(load))
            over, cell.tokens, cell.deltas = time.perf_counter(), *_arrived(readings)
            cell.tokens, cell.deltas = cell.tokens - before, cell.deltas - pieces
            cell.gaps_s = [one.gap_s() for one in readings]
        cell.due = load.streams * load.rate * (over - start)
        if load.steady and load.streams > 1:
            await self._probe_amid(cell, way, callers)
        for _, cancel in asked:
            cancel()
        if load.steady and load.streams == 1:
            await self._probe_alone(cell, way, callers)
        cell.errors += [one.failed for one in readings if one.failed]

    async def _probe_alone(self, cell: Cell, way: Way, callers: list[Caller]) -> None:
        """Take the time to first token of one request after the other, nothing else being asked."""
        ends = time.perf_counter() + self._timing.probe_s
        while time.perf_counter() < ends:
            await asyncio.sleep(random.uniform(0.001, 0.004))
            reading, cancel = self._ask(callers[0], way, 1)
            await asyncio.wait((reading.done,), timeout=GIVE_UP_S)
            cancel()
            _take_first(cell, reading)

    async def _probe_amid(self, cell: Cell, way: Way, callers: list[Caller]) -> None:
        """Take the time to first token of requests that come at random among the streams."""
        probes: list[tuple[Reading, Callable[[], None]]] = []
        ends = time.perf_counter() + self._timing.probe_s
        while time.perf_counter() < ends:
            await asyncio.sleep(random.expovariate(PROBES_PER_S))
            probes.append(self._ask(random.choice(callers), way, 1))
        await asyncio.wait([reading.done for reading, _ in probes], timeout=GIVE_UP_S)
        for reading, cancel in probes:
            cancel()
            _take_first(cell, reading)

    async def _closed(self, cell: Cell, load: Load, way: Way, middle: Middle, callers: list[Caller]) -> None:
        """Ask the next request when one has ended, for each of so many at once."""
        open_now: dict[int, Reading] = {}
        ended: list[Reading] = []

        async def asking(place: int) -> None:
            while True:
                open_now[place], _ = self._ask(callers[place % len(callers)], way, way.decisions)
                await open_now[place].done
                ended.append(open_now.pop(place))

        workers = [asyncio.create_task(asking(place)) for place in range(load.streams)]
        await asyncio.sleep(self._timing.settle_s(load))
        async with self._window(cell, middle):
            requests, before, pieces = len(ended), *_arrived([*ended, *open_now.values()])
            await asyncio.sleep(self._timing.window_s(load))
            cell.requests, cell.tokens, cell.deltas = len(ended), *_arrived([*ended, *open_now.values()])
        cell.requests, cell.tokens, cell.deltas = cell.requests - requests, cell.tokens - before, cell.deltas - pieces
        cell.first_s = [one.first_at - one.began for one in ended[requests:] if one.tokens]
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        cell.errors += [one.failed for one in ended if one.failed]


def _arrived(readings: Iterable[Reading]) -> tuple[int, int]:
    """Return the tokens that have arrived, and in how many pieces."""
    tokens = deltas = 0
    for one in readings:
        tokens += one.tokens
        deltas += one.deltas
    return tokens, deltas


def _take_first(cell: Cell, reading: Reading) -> None:
    if reading.failed:
        cell.errors.append(reading.failed)
    else:
        cell.first_s.append(reading.first_at - reading.began if reading.tokens else GIVE_UP_S)
