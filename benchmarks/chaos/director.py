"""A run from its beginning to its end: the mesh, the callers, the faults in their time, and what was seen of it all."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.chaos.breaking import Breaker
from benchmarks.chaos.disk import disk
from benchmarks.chaos.mesh import CALLERS, EXPERTS, GROUPS, NODES, REPLICA_NODES, ROUTER_NODES, ChaosMesh, running
from benchmarks.chaos.network import PREFIX, network, traces_of
from benchmarks.chaos.plan import KINDS, STARTS_ANEW, Fault
from benchmarks.chaos.recorder import FLAWS, GOOD, LEFT
from benchmarks.chaos.verdict import Seen
from benchmarks.data_plane.host import ROOT, python
from mesh_wire.settings import Simulation

SAFE_WITHIN_S = 15.0  # a fault waits so long for a moment in which it leaves somebody
LOOK_S = 0.1
PROGRESS_EVERY_S = 15.0
BEGUN_WITHIN_S = 120.0
ENDED_WITHIN_S = 200.0
CLEARED_WITHIN_S = 10.0
LINE_BYTES = 1 << 28


class NotUp(Exception):
    """The mesh, or its callers, did not come up."""


class Run:
    """A mesh under load. Made by `mesh_under_load`."""

    def __init__(self, mesh: ChaosMesh, callers: Process, seen: Seen) -> None:
        self.mesh = mesh
        self.seen = seen
        self.state: dict[str, Any] = {}
        self.began = time.monotonic()
        self.under_load = asyncio.Event()
        self.answers = asyncio.Event()
        self.reading = asyncio.create_task(self.read())
        self._callers = callers
        self._breaker = Breaker(mesh)
        self._active: dict[Fault, float] = {}  # until they are undone
        self._endings: set[asyncio.Task[None]] = set()
        self.skipped = 0

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {line}", flush=True)

    def crashed(self, line: str) -> None:
        self.say(line)
        self.seen.crashes.append(line)

    async def read(self) -> None:
        """Read what the callers say, to its end."""
        assert self._callers.stdout is not None
        async for line in self._callers.stdout:
            told = json.loads(line)
            match told["kind"]:
                case "state":
                    self.state = told
                case "began":
                    self.began = time.monotonic()
                    self.under_load.set()
                case "answers":
                    self.seen.rows, self.seen.open = told["rows"], told["open"]
                    self.seen.amiss, self.seen.late_s = told["amiss"], told["late_s"]
                    self.answers.set()
                case "failed":
                    raise NotUp(told["why"])
        if not self.answers.is_set():
            raise NotUp("the callers ended before their time")

    async def progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            ended = dict(self.state.get("ended", {}))
            good = ended.pop(GOOD, 0)
            ended.pop(LEFT, None)
            flawed = sum(ended.pop(name, 0) for name in FLAWS)
            failed = sum(ended.values())
            now = ", ".join(fault.words for fault in self._active) or "nothing"
            self.say(
                f"{good} good, {flawed} flawed, {failed} failed, {self.state.get('open', 0)} open; "
                f"load {os.getloadavg()[0]:.1f}; broken: {now}"
            )

    async def carry_out(self, faults: Sequence[Fault]) -> None:
        """Break what is planned, in its time, and undo it."""
        for fault in faults:
            await asyncio.sleep(max(0.0, self.began + fault.at_s - time.monotonic()))
            if await self._in_safety(fault):
                await self.do(fault)
            else:
                self.skipped += 1
                self.say(f"left out, nobody would be left: {fault.words}")
        if self._endings:
            await asyncio.wait(self._endings)

    async def do(self, fault: Fault) -> None:
        """Begin a fault; its end follows by itself."""
        self.say(fault.words)
        self._active[fault] = time.monotonic()
        await asyncio.to_thread(self._breaker.begin, fault)
        ending = asyncio.create_task(self._undo(fault))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _undo(self, fault: Fault) -> None:
        await asyncio.sleep(fault.lasts_s)
        await asyncio.to_thread(self._breaker.end, fault)
        if fault.kind in STARTS_ANEW:  # it is over when the process is another one, which does not help who waits
            lives = len(self.mesh.kept[fault.node].lives)
            while len(self.mesh.kept[fault.node].lives) == lives:  # noqa: ASYNC110 - a process tells nobody
                await asyncio.sleep(LOOK_S)
        del self._active[fault]

    async def _in_safety(self, fault: Fault) -> bool:
        """Wait until a fault leaves somebody who serves, by what the routers say; False where it never does."""
        ends = time.monotonic() + SAFE_WITHIN_S
        while not self._leaves_somebody(fault):
            if time.monotonic() > ends:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def _leaves_somebody(self, fault: Fault) -> bool:
        if any(other.node == fault.node for other in self._active):
            return False
        if not KINDS[fault.kind].out:
            return True
        away = {other.node for other in self._active if KINDS[other.kind].out} | {fault.node}
        return all(
            any(self.serves(node) for node in members if node not in away)
            for members in GROUPS.values()
            if fault.node in members
        )

    def serves(self, node: str) -> bool:
        """Whether a router answers; whether each router that answers says that a replica serves."""
        fleets: Mapping[str, Any] = self.state.get("fleets", {})
        if node in ROUTER_NODES:
            return fleets.get(self.mesh.targets[ROUTER_NODES.index(node)]) is not None
        found = [fleet.get(self.mesh.endpoint(node), {}) for fleet in fleets.values() if fleet is not None]
        return bool(found) and all(one.get("serving") for one in found)

    async def whole(self) -> None:
        """Wait until everybody serves."""
        nodes = [node for members in GROUPS.values() for node in members]
        while not all(self.serves(node) for node in nodes):  # noqa: ASYNC110 - told twice a second
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Have the callers ask nothing more, and wait for what they have seen."""
        assert self._callers.stdin is not None
        with suppress(ConnectionError):  # they are gone: the reader knows
            self._callers.stdin.write(b"stop\n")
            await self._callers.stdin.drain()
        await self.until(self.answers, ENDED_WITHIN_S, "the answers did not end")

    async def until(self, event: asyncio.Event, within_s: float, otherwise: str) -> None:
        """Wait for an event that the callers bring about.

        Raises:
            NotUp: they ended before it, or it did not come in time, which is said in other words.
        """
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({waiting, self.reading}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if event.is_set():
            return
        if self.reading.done():
            self.reading.result()
        raise NotUp(f"{otherwise} after {within_s:g} s")


@asynccontextmanager
async def mesh_under_load(
    seed: int, seen: Seen, profile: Simulation, load: Sequence[str], logs: Path | None = None
) -> AsyncIterator[Run]:
    """Have a mesh, and callers who ask it, until the block ends; then nothing of them is left.

    Args:
        seen: is filled; what is left behind after the block.
        load: options of `callers`.
        logs: where the processes' logs stay; None: nowhere.

    Raises:
        CannotRun: this machine has no namespaces for us.
        NotUp: the mesh did not come up.
    """
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")))
        net = life.enter_context(network(NODES))
        small = life.enter_context(disk(folder / "traces"))
        mesh = life.enter_context(running(net, small, logs or folder, profile))
        callers = await _callers(mesh, seed, load)
        run = Run(mesh, callers, seen)
        tasks = [asyncio.create_task(one.keep(run.crashed)) for one in mesh.kept.values()]
        tasks += [run.reading, asyncio.create_task(run.progress())]
        try:
            await run.until(run.under_load, BEGUN_WITHIN_S, "not all serve")
            if not net.netem:
                run.say("this kernel has no netem: packets keep their order, and links lag by being narrow")
            yield run
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(ProcessLookupError):
                os.kill(callers.pid, signal.SIGKILL)  # asyncio's own way would take its end from whoever waits for it
            await callers.wait()
            seen.memory = [(one.node, one.memory) for kept in mesh.kept.values() for one in kept.lives]
            for kept in mesh.kept.values():
                kept.end()
            seen.orphans = [f"process {pid}" for pid in net.processes()]
    seen.orphans = [*seen.orphans, *await _left_behind(f"{PREFIX}{os.getpid()}")]


async def _left_behind(tag: str) -> list[str]:
    """Return what is left of a network for longer than the kernel takes to clear it away."""
    ends = time.monotonic() + CLEARED_WITHIN_S
    while (left := traces_of(tag)) and time.monotonic() < ends:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(LOOK_S)
    return left


async def _callers(mesh: ChaosMesh, seed: int, load: Sequence[str]) -> Process:
    replicas = sum(map(len, REPLICA_NODES.values()))
    words = ["--routers", ",".join(mesh.targets), "--replicas", str(replicas), "--seed", str(seed)]
    if "--experts" not in load:
        words += ["--experts", ",".join(EXPERTS)]
    paths = os.pathsep.join(str(each) for each in (ROOT / "protos", ROOT / "client", ROOT))
    env = {**os.environ, "PYTHONPATH": paths, "OTEL_SDK_DISABLED": "true", "EXPERTMESH_LOG": "WARNING"}
    command = mesh.network.inside(CALLERS, *python("benchmarks.chaos.callers", *words, *load))
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=sys.stderr, env=env, cwd=ROOT, limit=LINE_BYTES, process_group=0
    )
