"""The callers, a process of their own: ask, check what comes, and say what they see, a JSON object a line.

`state` lines come twice a second, with what each router says of its fleet; `answers` at the end, with one row each.
Standard input says "stop" when nothing more is to be asked, or is closed.
"""

import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from benchmarks.chaos.fleets import LOOK_S, all_free, fleet_of
from benchmarks.chaos.recorder import LEFT, Recorder
from benchmarks.chaos.rows import Row, row_of
from expertmesh.v1.generation_pb2 import Delta, Finished, GenerateRequest, RouteChosen, Sampling
from expertmesh_client import AsyncClient
from mesh_wire import process
from mesh_wire.errors import MeshError

LEAVES_ONE_IN = 20  # of the callers of a mixed load, one in so many leaves in the midst
ANSWERED_WITHIN_S = 120.0


@dataclass
class Callers:
    """All callers together."""

    targets: list[str]
    experts: list[str]
    seed: int
    named: bool  # whether every request names its expert
    rows: list[Row] = field(default_factory=list)
    open: dict[int, Recorder] = field(default_factory=dict)
    asked: int = 0
    late_s: float = 0.0  # by which this process was behind at most
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        turned = [self.targets[at:] + self.targets[:at] for at in range(len(self.targets))]
        self.clients = [
            (over, AsyncClient(order, over=over, timeout_s=ANSWERED_WITHIN_S))
            for over in ("session", "generate")
            for order in turned
        ]
        self._draw = random.Random(self.seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, client in self.clients:
            await client.close()

    def ask(self, tokens: int, *, may_leave: bool) -> None:
        """Begin one request, by the next client, of an expert or of whom the router likes."""
        self.asked += 1
        number, draw = self.asked, self._draw
        leaves_after = draw.randrange(tokens) if may_leave and draw.randrange(LEAVES_ONE_IN) == 0 else None
        request = GenerateRequest(
            request_id=f"chaos-{self.seed}-{number}",
            prompt=f"question {number} of {self.seed} " + " ".join(str(draw.getrandbits(20)) for _ in range(12)),
            expert=draw.choice(self.experts if self.named else ["", *self.experts]),
            sampling=Sampling(max_new_tokens=tokens, ignore_eos=True),
        )
        over, client = self.clients[number % len(self.clients)]
        task = asyncio.create_task(self._one(number, over, client, request, leaves_after))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(
        self, number: int, over: str, client: AsyncClient, request: GenerateRequest, leaves_after: int | None
    ) -> None:
        seen = self.open[number] = Recorder(request, time.monotonic())
        outcome, words = "", ""
        try:
            answer = client.generate(
                request.prompt, expert=request.expert, sampling=request.sampling, request_id=request.request_id
            )
            async with answer:
                async for event in answer.events():
                    if isinstance(event, RouteChosen):
                        seen.routed(event.expert)
                    elif isinstance(event, Delta):
                        seen.delta(event, time.monotonic())
                    elif isinstance(event, Finished):
                        seen.finished(event)
                    if leaves_after is not None and len(seen.came) > leaves_after and not seen.ends:
                        outcome = LEFT
                        break
        except MeshError as error:
            outcome, words = f"{error.code.name} {error.reason}", f"{error} {error.facts}"
        others = [each.expected for at, each in self.open.items() if at != number]
        if not outcome:
            outcome = seen.verdict(others)
        elif seen.astray:  # however it ended
            outcome = seen.verdict(others) if seen.ends else "wrong"
        del self.open[number]
        self.rows.append(row_of(seen, outcome, over, words, self.began, time.monotonic()))

    async def answered(self) -> None:
        """Wait for all that is under way; each has its deadline."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=ANSWERED_WITHIN_S + 10)

    async def watch(self, watchers: dict[str, AsyncClient]) -> None:
        """Say again and again how things are, and note by how much this process is behind."""
        while True:
            fleets = await asyncio.gather(*(fleet_of(client) for client in watchers.values()))
            self._tell(dict(zip(watchers, fleets, strict=True)))
            due = time.monotonic() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.late_s = max(self.late_s, time.monotonic() - due)

    def _tell(self, fleets: dict[str, Any]) -> None:
        say(
            "state",
            asked=self.asked,
            open=len(self.open),
            begun=sum(each.first is not None for each in self.open.values()),
            ended=dict(Counter(row.outcome for row in self.rows)),
            fleets=fleets,
        )


def say(kind: str, **what: Any) -> None:
    print(json.dumps({"kind": kind, **what}), flush=True)


async def told_to_stop() -> None:
    """Return when standard input says so."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()


async def load(callers: Callers, streams: int, rate: float, tokens: tuple[int, int], stop: asyncio.Task[None]) -> None:
    """Ask: so many at once, or so many a second, waiting for nobody, until told to stop."""
    draw = random.Random(callers.seed + 1)
    for _ in range(streams):
        callers.ask(draw.randint(*tokens), may_leave=False)
    at = time.monotonic()
    while rate and not stop.done():
        at += draw.expovariate(rate)
        await asyncio.wait((stop,), timeout=max(0.0, at - time.monotonic()))
        callers.late_s = max(callers.late_s, time.monotonic() - at)
        callers.ask(draw.randint(*tokens), may_leave=True)


async def main(
    routers: list[str],
    experts: list[str],
    replicas: int,
    streams: int,
    rate: float,
    tokens: tuple[int, int],
    seed: int,
    named: bool,
) -> int:
    stop = asyncio.create_task(told_to_stop())
    watchers = {target: AsyncClient(target) for target in routers}
    callers = Callers(routers, experts, seed, named)
    watching: asyncio.Task[None] | None = None
    try:
        if amiss := await all_free(watchers, replicas):
            say("failed", why=f"the mesh did not come up: {amiss}")
            return process.FAILED
        callers.began = time.monotonic()
        say("began")
        watching = asyncio.create_task(callers.watch(watchers))
        await load(callers, streams, rate, tokens, stop)
        if not rate:
            answered = asyncio.create_task(callers.answered())
            await asyncio.wait((answered, stop), return_when=asyncio.FIRST_COMPLETED)
        await callers.answered()
        say("answered")
        amiss = await all_free(watchers, replicas)
        say(
            "answers",
            amiss=amiss,
            late_s=callers.late_s,
            open=len(callers.open),
            cpu_s=resource.getrusage(resource.RUSAGE_SELF).ru_utime,
            rows=[{name: getattr(row, name) for name in Row.__slots__} for row in callers.rows],
        )
        return process.STOPPED
    finally:
        for task in (stop, watching):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await callers.close()
        for client in watchers.values():
            await client.close()


def command(
    routers: Annotated[str, typer.Option(help="Their addresses, with commas.")],
    experts: Annotated[str, typer.Option(help="Their names, with commas.")],
    replicas: Annotated[int, typer.Option(help="Of all experts together.")],
    streams: Annotated[int, typer.Option(help="Answers at once, from the beginning on.")] = 0,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 0.0,
    tokens: Annotated[tuple[int, int], typer.Option(help="The fewest and the most of an answer.")] = (20, 200),
    seed: int = 0,
    named: Annotated[bool, typer.Option("--named", help="Every request names its expert.")] = False,
) -> None:
    """Ask and check; see the module."""
    process.begin()
    sys.exit(process.run(main(routers.split(","), experts.split(","), replicas, streams, rate, tokens, seed, named)))


if __name__ == "__main__":
    typer.run(command)
