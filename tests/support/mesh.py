"""The mesh in one process, on real servers: experts, a router before them, and channels to all."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from expert_svc.engine import Engine
from expert_svc.opening import open_engine
from expert_svc.service import expert_server
from expertmesh.v1.expert_pb2_grpc import ExpertServiceStub
from expertmesh.v1.inference_pb2_grpc import InferenceServiceStub
from expertmesh.v1.router_pb2 import ListExpertsRequest, ListExpertsResponse
from expertmesh.v1.router_pb2_grpc import RouterServiceStub
from mesh_wire.auth.sections import CallerSection, PeerSection
from mesh_wire.serving import Serving, open_channel
from mesh_wire.settings import ExpertSection, Mesh, RouterSection, Simulation, TicketSection
from mesh_wire.telemetry import Telemetry
from mesh_wire.tls import ClientTls
from router_svc.service import router_server
from router_svc.strategies.strategy import Strategy

ANYWHERE = "127.0.0.1:0"


@dataclass
class Node:
    """A running server and a channel to it."""

    server: Serving
    channel: grpc.aio.Channel
    port: int
    inference: InferenceServiceStub

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def health(self, service: str = "") -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


@dataclass
class RunningExpert(Node):
    """One expert process's worth of objects."""

    name: str
    engine: Any  # the engine given, or a simulated one
    expert: ExpertServiceStub


@dataclass
class RunningRouter(Node):
    """One router process's worth of objects."""

    routing: RouterServiceStub
    experts: dict[str, RunningExpert] = field(default_factory=dict)

    async def fleet(self) -> ListExpertsResponse:
        return await self.routing.ListExperts(ListExpertsRequest())

    async def serving(self) -> list[str]:
        """The names of the replicas that serve."""
        replicas = [replica for expert in (await self.fleet()).experts for replica in expert.replicas]
        return sorted({replica.name for replica in replicas if replica.serving})

    async def outstanding(self) -> int:
        """Requests that the router has under way."""
        replicas = [replica for expert in (await self.fleet()).experts for replica in expert.replicas]
        return sum({replica.endpoint: replica.outstanding for replica in replicas}.values())


@asynccontextmanager
async def running_expert(
    *serves: str,
    name: str = "a",
    engine: Engine | None = None,
    simulation: Simulation | None = None,
    telemetry: Telemetry | None = None,
    caller_tls: ClientTls | None = None,
    tickets: TicketSection | None = None,
    callers: CallerSection | None = None,
    peers: PeerSection | None = None,
    **section: Any,
) -> AsyncIterator[RunningExpert]:
    """Serve an engine, a simulated one unless given.

    Args:
        serves: the experts of a simulated engine; a given one knows its own.
        section: further fields of `ExpertSection`.
    """
    names = serves or tuple(one.name for one in engine.description.experts) if engine else serves or ("general",)
    settings = ExpertSection(
        name=name,
        serves=dict.fromkeys(names),
        simulated=simulation or Simulation(),
        **{"listen": ANYWHERE, "drain_grace_s": 5, **section},
    )
    async with AsyncExitStack() as life:
        running = engine or await life.enter_async_context(open_engine(settings))
        server = await life.enter_async_context(
            expert_server(running, settings, telemetry or Telemetry.off(), tickets, callers, peers)
        )
        host = settings.listen.rpartition(":")[0]
        channel = await life.enter_async_context(open_channel(f"{host}:{server.port}", caller_tls))
        yield RunningExpert(
            server=server,
            channel=channel,
            port=server.port,
            inference=InferenceServiceStub(channel),
            name=name,
            engine=running,
            expert=ExpertServiceStub(channel),
        )


@asynccontextmanager
async def running_router(
    *targets: str,
    strategy: str | Strategy = "round_robin",
    serves: Iterable[str] = (),
    telemetry: Telemetry | None = None,
    tickets: TicketSection | None = None,
    callers: CallerSection | None = None,
    peers: PeerSection | None = None,
    **section: Any,
) -> AsyncIterator[RunningRouter]:
    """Serve a router before `targets`.

    Args:
        strategy: a name, or a strategy that the test made.
        serves: what the mesh file says that its experts serve; the controls choose among it.
        section: further fields of `RouterSection`.
    """
    fields = {"listen": ANYWHERE, "drain_grace_s": 5, "targets": targets, **section}
    fields["strategy"] = strategy if isinstance(strategy, str) else "round_robin"
    named = dict.fromkeys(serves)
    expert = ExpertSection(name="named", serves=named or {"nobody": None}, listen=ANYWHERE, simulated=Simulation())
    experts = (expert,) if named else ()
    mesh = Mesh(
        router=RouterSection(**fields),
        experts=experts,
        tickets=tickets or TicketSection(),
        callers=callers,
        peers=peers,
    )
    async with AsyncExitStack() as life:
        given = not isinstance(strategy, str)
        life.enter_context(patch("router_svc.choosing.wishes.drawn", lambda: None))  # the same replica every time
        with patch("router_svc.service.open_strategy", lambda *_, **__: strategy) if given else nullcontext():
            server = await life.enter_async_context(router_server(mesh, telemetry or Telemetry.off()))
        channel = await life.enter_async_context(open_channel(f"127.0.0.1:{server.port}"))
        yield RunningRouter(
            server=server,
            channel=channel,
            port=server.port,
            inference=InferenceServiceStub(channel),
            routing=RouterServiceStub(channel),
        )


@asynccontextmanager
async def running_mesh(
    experts: Mapping[str, Any] | None = None,
    *,
    strategy: str | Strategy = "round_robin",
    telemetry: Telemetry | None = None,
    expert_telemetry: Telemetry | None = None,
    expert_section: Mapping[str, Any] | None = None,
    tickets: TicketSection | None = None,
    callers: CallerSection | None = None,
    peers: PeerSection | None = None,
    **router: Any,
) -> AsyncIterator[RunningRouter]:
    """Serve experts and a router before them.

    Args:
        experts: replica -> its engine, or the experts that a simulated one serves; "a" serves `general` by default.
        expert_section: fields of every `ExpertSection`.
        router: fields of `RouterSection`.
    """
    async with AsyncExitStack() as life:
        running: dict[str, RunningExpert] = {}
        # A mesh file with callers would have to name its routers, or say this.
        open_doors = {"accepts": ("anybody",)} if callers and not (peers or tickets) else {}
        for name, what in (experts or {"a": ("general",)}).items():
            engine = what if hasattr(what, "generate") else None
            serves = () if hasattr(what, "generate") else tuple(what)
            running[name] = await life.enter_async_context(
                running_expert(
                    *serves,
                    name=name,
                    engine=engine,
                    telemetry=expert_telemetry,
                    tickets=tickets,
                    callers=callers,
                    peers=peers,
                    **(open_doors | dict(expert_section or {})),
                )
            )
        served = dict.fromkeys(one.name for each in running.values() for one in each.engine.description.experts)
        mesh = await life.enter_async_context(
            running_router(
                *(each.target for each in running.values()),
                strategy=strategy,
                serves=served,
                telemetry=telemetry,
                tickets=tickets,
                callers=callers,
                peers=peers,
                **router,
            )
        )
        mesh.experts = running
        yield mesh
