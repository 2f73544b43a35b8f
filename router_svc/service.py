"""One router process put together: strategy, fleet, answers, server."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import grpc
from opentelemetry.trace import SpanKind

from expertmesh.v1 import inference_pb2_grpc, router_pb2_grpc
from expertmesh.v1.router_pb2 import (
    Expert,
    ListExpertsRequest,
    ListExpertsResponse,
    Replica,
    RouteRequest,
    RouteResponse,
    RouteSessionRequest,
    RouteSessionResponse,
    Unreachable,
)
from mesh_wire import inference, validation
from mesh_wire.admission import Admission
from mesh_wire.deadlines import Deadline
from mesh_wire.inference import Asked, InferenceServicer
from mesh_wire.process import STOPPED, settle, terminated
from mesh_wire.serving import Serving, serving
from mesh_wire.settings import Mesh
from mesh_wire.telemetry import Telemetry, exporting, parent_of
from mesh_wire.ticket_keys import keys_of
from mesh_wire.tickets import TicketOffice
from router_svc.answers import RouterAnswers
from router_svc.classification import Classifier
from router_svc.desk import Desk
from router_svc.explaining import explained
from router_svc.fleet import Fleet, open_fleet
from router_svc.route_exchange import RouteExchange
from router_svc.selection import Policy
from router_svc.strategy import open_strategy

log = logging.getLogger(__name__)

SERVICE = "expertmesh.v1.RouterService"


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """Speaks `RouterService` for one router."""

    def __init__(self, answers: RouterAnswers, fleet: Fleet, policy: Policy, telemetry: Telemetry, desk: Desk) -> None:
        self._answers = answers
        self._desk = desk
        self._fleet = fleet
        self._policy = policy
        self._telemetry = telemetry

    async def Route(
        self, request: RouteRequest, context: grpc.aio.ServicerContext[RouteRequest, RouteResponse]
    ) -> RouteResponse:
        headers = inference.headers_of(context)
        with self._telemetry.span(
            f"{SERVICE}/Route",
            SpanKind.SERVER,
            parent=parent_of(headers.get("traceparent", ""), headers.get("tracestate", "")),
            attributes={"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/Route"},
        ) as span:
            validation.check(request.request)
            asked = Asked(Deadline.after(context.time_remaining()), "", span, time.monotonic())
            decision, chosen, scores, timings = await self._answers.decide(request.request, asked)
            span.set_attribute("rpc.response.status_code", "OK")
        response = explained(decision, chosen, scores, self._policy)
        response.timings.CopyFrom(timings)
        response.ticket = self._fleet.replica(response.endpoint).ticket(decision.expert, asked.deadline)
        return response

    async def RouteSession(
        self,
        requests: AsyncIterator[RouteSessionRequest],
        context: grpc.aio.ServicerContext[RouteSessionRequest, RouteSessionResponse],
    ) -> AsyncGenerator[RouteSessionResponse, None]:
        async with aclosing(RouteExchange(self._desk).answers(requests)) as responses:
            async for response in responses:
                yield response

    async def ListExperts(
        self,
        request: ListExpertsRequest,
        context: grpc.aio.ServicerContext[ListExpertsRequest, ListExpertsResponse],
    ) -> ListExpertsResponse:
        experts: dict[str, Expert] = {}
        for replica in sorted(self._fleet.replicas, key=lambda replica: replica.endpoint):
            for served in replica.description.experts:
                expert = experts.setdefault(served.name, Expert(name=served.name))
                expert.available = expert.available or not replica.trouble
                expert.replicas.append(
                    Replica(
                        name=replica.description.replica,
                        endpoint=replica.endpoint,
                        serving=not replica.trouble,
                        description=replica.description,
                        load=replica.load,
                        outstanding=replica.outstanding,
                    )
                )
        return ListExpertsResponse(
            experts=[experts[name] for name in sorted(experts)],
            generalist=self._policy.generalist,
            strategy=self._answers.strategy.name,
            artefact=self._answers.strategy.generation,
            unreachable=[
                Unreachable(endpoint=endpoint, reason=reason)
                for endpoint, reason in sorted(self._fleet.unreachable.items())
            ],
        )


@asynccontextmanager
async def router_server(mesh: Mesh, telemetry: Telemetry) -> AsyncIterator[Serving]:
    """Route and serve until the block ends. Ready once every configured expert has been tried.

    Raises:
        ArtefactError: the strategy's artefact cannot be used.
    """
    section = mesh.router
    policy = Policy(generalist=section.generalist, threshold=section.threshold)
    keys = keys_of(mesh.tickets)
    office = TicketOffice(keys, mesh.tickets.lifetime_s) if keys else None
    async with open_fleet(mesh.targets, telemetry, section.expert_tls, office) as fleet:
        await fleet.looked()
        strategy = open_strategy(
            section.strategy,
            artefact=section.artefact,
            experts=_experts_of(mesh, fleet),
            pinned=section.pinned,
            seed=section.seed,
        )
        admission = Admission(section.max_in_flight, reason="ROUTER_BUSY")
        classifier = Classifier(strategy)
        answers = RouterAnswers(classifier, fleet, policy, admission, telemetry)
        answering = InferenceServicer(answers, telemetry)
        desk = Desk(classifier, fleet, policy, admission, telemetry, lambda: answering.draining)

        def register(server: grpc.aio.Server) -> None:
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(answering, server)
            router_pb2_grpc.add_RouterServiceServicer_to_server(
                RouterServicer(answers, fleet, policy, telemetry, desk), server
            )

        async with serving(
            register,
            [inference.SERVICE, SERVICE],
            address=section.listen,
            grace_s=section.drain_grace_s,
            drain=answering.drain,
            tls=section.tls,
            max_message_bytes=section.max_message_bytes,
            with_reflection=section.reflection,
            with_channelz=section.channelz,
            shares_port=section.workers > 1,
        ) as server:
            yield server


async def main(mesh: Mesh, worker: int = 0) -> int:
    """Run one router process until it is told to stop; returns the exit code.

    Args:
        worker: its number among those that share the port; 0 where it is alone.
    """
    async with AsyncExitStack() as life:
        instance = f"{mesh.router.listen} worker {worker}" if worker else mesh.router.listen
        telemetry = life.enter_context(exporting("expertmesh-router", instance))
        stop = asyncio.create_task(terminated())
        opening = asyncio.create_task(life.enter_async_context(router_server(mesh, telemetry)))
        await asyncio.wait((stop, opening), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait((opening,))
            return STOPPED
        server = await opening
        settle()
        log.info("the router serves on port %d", server.port)
        await stop
        log.info("the router drains after %s", stop.result().name)
    log.info("the router has stopped")
    return STOPPED


def _experts_of(mesh: Mesh, fleet: Fleet) -> list[str]:
    """Return what the controls choose among: the experts that the file names, or, where it has targets alone, those
    found behind them."""
    named = [name for expert in mesh.experts for name in expert.serves]
    found = sorted(expert.name for replica in fleet.replicas for expert in replica.description.experts)
    pinned = [mesh.router.pinned] if mesh.router.pinned else []
    return list(dict.fromkeys([*(named or found or [mesh.router.generalist]), *pinned]))
