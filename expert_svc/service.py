"""One expert process put together: engine, answers, server."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import grpc

from expert_svc.admitting import EngineAdmission
from expert_svc.answers import ExpertAnswers
from expert_svc.engine import Engine
from expert_svc.load_board import LONGEST_PAUSE_S, SHORTEST_PAUSE_S
from expert_svc.measuring import observe_engine
from expert_svc.opening import open_engine
from expert_svc.orca import Orca
from expertmesh.v1 import expert_pb2_grpc, inference_pb2_grpc
from expertmesh.v1.expert_pb2 import DescribeRequest, DescribeResponse, WatchLoadRequest, WatchLoadResponse
from mesh_wire import inference
from mesh_wire.auth.access import expert_gate, expert_guard
from mesh_wire.auth.sections import CallerSection, PeerSection
from mesh_wire.deadlines import seconds
from mesh_wire.inference import InferenceServicer
from mesh_wire.process import FAILED, STOPPED, say_error, terminated
from mesh_wire.prometheus import address_of
from mesh_wire.serving import Serving, serving_by
from mesh_wire.settings import ExpertSection, TicketSection
from mesh_wire.telemetry import Telemetry, exporting

log = logging.getLogger(__name__)

SERVICE = "expertmesh.v1.ExpertService"


class ExpertServicer(expert_pb2_grpc.ExpertServiceServicer):
    """Speaks `ExpertService` for one engine."""

    def __init__(self, engine: Engine, section: ExpertSection) -> None:
        self._engine = engine
        self._description = DescribeResponse()
        self._description.CopyFrom(engine.description)
        self._description.replica = section.name
        for expert in self._description.experts:
            expert.variant = section.variants.get(expert.name, "")
        self._description.max_in_flight = section.max_in_flight
        self._description.max_message_bytes = section.max_message_bytes

    async def Describe(
        self, request: DescribeRequest, context: grpc.aio.ServicerContext[DescribeRequest, DescribeResponse]
    ) -> DescribeResponse:
        return self._description

    async def WatchLoad(
        self, request: WatchLoadRequest, context: grpc.aio.ServicerContext[WatchLoadRequest, WatchLoadResponse]
    ) -> AsyncGenerator[WatchLoadResponse, None]:
        pause_s = max(SHORTEST_PAUSE_S, min(seconds(request.shortest_pause), LONGEST_PAUSE_S))
        async with aclosing(self._engine.board.watch(pause_s)) as reports:
            async for load in reports:
                yield WatchLoadResponse(load=load)


@asynccontextmanager
async def expert_server(
    engine: Engine,
    section: ExpertSection,
    telemetry: Telemetry,
    tickets: TicketSection | None = None,
    callers: CallerSection | None = None,
    peers: PeerSection | None = None,
) -> AsyncIterator[Serving]:
    """Serve an engine that is ready. Yields the running server.

    Args:
        tickets: what the mesh file says of them; None: nothing.
        callers: likewise.
        peers: likewise.
    """
    tickets = tickets or TicketSection()
    guard = expert_guard(section, tickets, callers, peers, telemetry)
    admission = EngineAdmission(engine, section)
    observe_engine(telemetry, engine)
    described = engine.description
    models = {expert.name: expert.adapter or described.base_model for expert in described.experts}
    gate = expert_gate(section, tickets, callers, peers, models)
    answering = InferenceServicer(ExpertAnswers(engine, admission, section.variants), telemetry, gate)

    orca = Orca(lambda: engine.board.latest, engine.description, lambda: answering.answered)

    def register(server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(answering, server)
        expert_pb2_grpc.add_ExpertServiceServicer_to_server(ExpertServicer(engine, section), server)
        orca.register(server)

    services = [inference.SERVICE, SERVICE]
    async with serving_by(
        section,
        register,
        services,
        telemetry=telemetry,
        drain=answering.drain,
        trailer=orca.trailer,
        guard=guard,
    ) as server:
        yield server


async def main(
    section: ExpertSection,
    tickets: TicketSection | None = None,
    callers: CallerSection | None = None,
    peers: PeerSection | None = None,
) -> int:
    """Run one expert process until it is told to stop or its engine dies; returns the exit code."""
    async with AsyncExitStack() as life:
        metrics_at = address_of(section)
        telemetry = life.enter_context(exporting("expertmesh-expert", section.name, metrics_at=metrics_at))
        stop = asyncio.create_task(terminated())
        opening = asyncio.create_task(life.enter_async_context(open_engine(section)))
        await asyncio.wait((stop, opening), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            log.info("%s stops while its engine starts", section.name)
            opening.cancel()
            await asyncio.wait((opening,))
            return STOPPED
        engine = await opening
        server = await life.enter_async_context(expert_server(engine, section, telemetry, tickets, callers, peers))
        log.info("%s serves %s on port %d", section.name, ", ".join(section.serves), server.port)
        dead = asyncio.create_task(engine.died())
        await asyncio.wait((stop, dead), return_when=asyncio.FIRST_COMPLETED)
        if dead.done():
            await server.withdraw()
            say_error(f"{section.name}: the engine died: {dead.result()}")
            return FAILED
        dead.cancel()
        log.info("%s drains after %s", section.name, stop.result().name)
    log.info("%s has stopped", section.name)
    return STOPPED
