"""What a decision costs the router as its fleet grows: CPU per request before 4, 16, 64 and 256 replicas.

    python -m benchmarks.replicas [--replicas 4,16,64,256] [--seconds 2] [--rounds 5] [--json]

First the decision alone, in this process, each followed by the changes that a request makes to the fleet: it begins at
one replica, and another ends. Then as processes: a router for each fleet, real servers with simulated engines in this
process, and the CPU of the router's process for decisions over a stream, in messages of 16 that hold their places, and
for answers of one token by `Generate`, 32 at once. Fleets take turns; the median of the rounds is shown. Each fleet
serves four experts, a quarter of its replicas each.
"""

import asyncio
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from benchmarks import report
from benchmarks.data_plane.host import Child, cores, free_port, python
from expert_svc.service import expert_server
from expert_svc.simulated_engine import open_simulated_engine
from expertmesh.v1.expert_pb2 import Load
from expertmesh.v1.generation_pb2 import GenerateRequest, Sampling
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2 import ListExpertsRequest, RouteAsk, RouteReport, RouteSessionRequest
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire import process
from mesh_wire.deadlines import duration
from mesh_wire.serving import open_channel
from mesh_wire.settings import ExpertSection, Simulation
from mesh_wire.telemetry import Telemetry
from router_svc.choosing.candidate import Candidate, terms_of
from router_svc.choosing.decision import Policy, Wish
from router_svc.choosing.roster import Roster
from router_svc.choosing.selection import select

EXPERTS = ("general", "math", "coding", "health")
EXPERT_PORT = 20061
IN_MESSAGE = 16
AT_ONCE = 32
DECISIONS = 20_000
POLICY = Policy(generalist="general", threshold=0.4, spill_ms_per_point=20, quality_floor=0.1, sibling_ms=100)

IDLE = "idle_ms"  # of no request at all: what a millisecond costs

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def alone_us(replicas: int) -> float:
    """Return the processor time of a decision and of what it changes, in microseconds."""
    load = Load(running=4, step_time=duration(0.02))
    roster = Roster(
        Candidate(
            replica=f"expert-{n}",
            endpoint=f"10.0.{n // 250}.{n % 250}:50061",
            experts=frozenset((EXPERTS[n % 4],)),
            serving=True,
            load=load,
            terms=terms_of(load),
            outstanding=4,
            max_running=64,
        )
        for n in range(replicas)
    )
    chance = random.Random(0)
    scores = [dict.fromkeys(EXPERTS, 0.1) | {name: 0.7} for name in EXPERTS]
    held: deque[str] = deque()

    def change(endpoint: str, by: int) -> None:
        one = roster.candidate(endpoint)
        roster.put(one._replace(outstanding=one.outstanding + by, untold=one.untold + by))

    began = time.process_time()
    for at in range(DECISIONS):
        decision = select(scores[at % 4], roster, POLICY, Wish(chance=chance.random()))
        held.append(decision.chosen.endpoint)
        change(held[-1], 1)
        if len(held) > replicas:
            change(held.popleft(), -1)
    return (time.process_time() - began) / DECISIONS * 1e6


@dataclass
class Mesh:
    """A router with its fleet."""

    replicas: int
    router: Child
    channel: grpc.aio.Channel
    cost_us: dict[str, list[float]] = field(default_factory=dict)  # way -> of each round


def router_started(life: AsyncExitStack, replicas: int, folder: Path) -> tuple[Child, int, list[str]]:
    """Start a router; return it, its port, and the addresses at which it looks for its fleet."""
    port = free_port()
    # Addresses of their own: of ports on one address, some would meanwhile be taken by connections.
    targets = [f"127.{replicas % 250 + 1}.{n // 250}.{n % 250 + 1}:{EXPERT_PORT}" for n in range(replicas)]
    router = {"listen": f"127.0.0.1:{port}", "strategy": "round_robin", "targets": targets, "max_in_flight": 10_000}
    file = folder / f"{replicas}.yaml"
    file.write_text(json.dumps({"router": router}), encoding="utf-8")
    child = Child(python("router_svc", "--config", str(file)), cores()[0], folder / f"{replicas}.log")
    life.callback(child.kill)
    return child, port, targets


async def fleet_started(life: AsyncExitStack, addresses: list[str]) -> None:
    """Serve an expert at each of these addresses."""
    for number, address in enumerate(addresses):
        section = ExpertSection(
            name=f"expert-{number}",
            listen=address,
            serves={EXPERTS[number % 4]: None},
            simulated=Simulation(step_base_s=0.005),
            max_in_flight=10_000,
        )
        engine = await life.enter_async_context(open_simulated_engine(list(section.serves), section.simulated))
        await life.enter_async_context(expert_server(engine, section, Telemetry.off()))


async def knows_its_fleet(channel: grpc.aio.Channel, replicas: int) -> None:
    """Wait until a router has all its replicas."""
    serving = 0
    while serving < replicas:
        fleet = await RouterServiceStub(channel).ListExperts(ListExpertsRequest(), wait_for_ready=True)
        serving = sum(replica.serving for expert in fleet.experts for replica in expert.replicas)
        await asyncio.sleep(0.2)


async def by_stream(channel: grpc.aio.Channel, seconds: float) -> int:
    """Ask for decisions over one stream, which hold their places until the message after; return how many came."""
    call, done, until = RouterServiceStub(channel).RouteSession(), 0, time.monotonic() + seconds
    request = GenerateRequest(prompt="What is 12 times 13?", sampling=Sampling(max_new_tokens=1))
    reports: list[RouteReport] = []
    while time.monotonic() < until:
        asks = [RouteAsk(route_id=done + n, request=request, reserve=True) for n in range(1, IN_MESSAGE + 1)]
        await call.write(RouteSessionRequest(asks=asks, reports=reports))
        answers = (await call.read()).answers
        assert all(answer.HasField("decision") for answer in answers)
        reports = [RouteReport(route_id=answer.route_id) for answer in answers]
        done += len(answers)
    call.cancel()
    return done


async def by_generate(channel: grpc.aio.Channel, seconds: float) -> int:
    """Ask for answers of one token; return how many came."""
    stub, done, until = InferenceServiceStub(channel), 0, time.monotonic() + seconds
    request = GenerateRequest(prompt="What is 12 times 13?", sampling=Sampling(max_new_tokens=1))

    async def keep_asking() -> None:
        nonlocal done
        while time.monotonic() < until:
            async for _ in stub.Generate(request):
                pass
            done += 1

    await asyncio.gather(*(keep_asking() for _ in range(AT_ONCE)))
    return done


async def idle(channel: grpc.aio.Channel, seconds: float) -> int:
    """Ask for nothing: a second's worth of being there."""
    await asyncio.sleep(seconds)
    return round(seconds * 1000)


WAYS: dict[str, Callable[[grpc.aio.Channel, float], Awaitable[int]]] = {
    "decide": by_stream,
    "answer": by_generate,
    IDLE: idle,
}


async def as_processes(sizes: list[int], rounds: int, seconds: float) -> list[Mesh]:
    """Measure routers before fleets of these sizes."""
    async with AsyncExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        # The routers first: a process in which gRPC runs must not fork.
        routers = [router_started(life, size, folder) for size in sizes]
        meshes = []
        for (router, port, addresses), size in zip(routers, sizes, strict=True):
            await fleet_started(life, addresses)
            channel = await life.enter_async_context(open_channel(f"127.0.0.1:{port}"))
            await knows_its_fleet(channel, size)
            meshes.append(Mesh(size, router, channel))
        for mesh in meshes:
            for way in WAYS.values():
                await way(mesh.channel, 0.5)
        for _ in range(rounds):
            for name, way in WAYS.items():
                for mesh in meshes:
                    before = mesh.router.cpu_s()
                    done = await way(mesh.channel, seconds)
                    mesh.cost_us.setdefault(name, []).append((mesh.router.cpu_s() - before) / done * 1e6)
        return meshes


@app.command()
def main(
    replicas: Annotated[str, typer.Option(help="Sizes of the fleets, with commas.")] = "4,16,64,256",
    seconds: Annotated[float, typer.Option(help="How long each is measured in a round.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure what a decision costs as the fleet grows."""
    sizes = [int(size) for size in replicas.split(",")]
    alone = {size: report.median([alone_us(size) for _ in range(rounds)]) for size in sizes}
    meshes: list[Mesh] = []

    async def measured() -> int:
        meshes.extend(await as_processes(sizes, rounds, seconds))
        return 0

    process.run(measured())
    rows: list[dict[str, Any]] = []
    for mesh in meshes:
        costs = {"select": alone[mesh.replicas]} | {name: report.median(each) for name, each in mesh.cost_us.items()}
        row: dict[str, Any] = {"replicas": mesh.replicas}
        for name, cost in costs.items():
            row[name] = cost
            if name != IDLE:
                first = rows[0][name] if rows else cost
                row[f"{name}_%"] = f"{100 * (cost / first - 1):+.0f}"
        rows.append(row)
    load = f"decisions in messages of {IN_MESSAGE}, answers of one token {AT_ONCE} at once; router on core {cores()[0]}"
    report.show("CPU of the router per request, µs, and its growth", rows, as_json=as_json, load=load)


if __name__ == "__main__":
    app()
