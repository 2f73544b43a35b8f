"""One router process put together: strategy, fleet, answers, server."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from opentelemetry.trace import SpanKind

from expertmesh.v1 import inference_pb2_grpc, router_pb2_grpc
from expertmesh.v1.router_pb2 import (
    Expert,
    ListExpertsRequest,
    ListExpertsResponse,
    Replica,
    ReplicaWeighed,
    RouteRequest,
    RouteResponse,
    Unreachable,
)
from mesh_wire import inference, validation
from mesh_wire.admission import Admission
from mesh_wire.deadlines import Deadline, duration
from mesh_wire.inference import Asked, InferenceServicer
from mesh_wire.process import STOPPED, terminated
from mesh_wire.serving import Serving, serving
from mesh_wire.settings import Mesh
from mesh_wire.telemetry import Telemetry, exporting, parent_of
from router_svc.answers import RouterAnswers, ranked
from router_svc.classification import Classifier
from router_svc.fleet import Fleet, open_fleet
from router_svc.selection import Policy, expected_wait_s
from router_svc.strategy import open_strategy

log = logging.getLogger(__name__)

SERVICE = "expertmesh.v1.RouterService"


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """Speaks `RouterService` for one router."""

    def __init__(self, answers: RouterAnswers, fleet: Fleet, policy: Policy, telemetry: Telemetry) -> None:
        self._answers = answers
        self._fleet = fleet
        self._policy = policy
        self._telemetry = telemetry

    async def Route(
        self, request: RouteRequest, context: grpc.aio.ServicerContext[RouteRequest, RouteResponse]
    ) -> RouteResponse:
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
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
        falling = ranked(scores)
        return RouteResponse(
            route=chosen,
            endpoint=decision.chosen.endpoint,
            scores=falling,
            threshold=self._policy.threshold,
            margin=falling[0].score - falling[1].score if len(falling) > 1 else 0.0,
            replicas=[
                ReplicaWeighed(
                    replica=candidate.replica,
                    endpoint=candidate.endpoint,
                    expected_wait=duration(expected_wait_s(candidate)),
                    load=candidate.load,
                    outstanding=candidate.outstanding,
                )
                for candidate in decision.weighed
            ],
            timings=timings,
        )

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
    async with open_fleet(mesh.targets, telemetry, section.expert_tls) as fleet:
        await fleet.looked()
        strategy = open_strategy(
            section.strategy,
            artefact=section.artefact,
            experts=_experts_of(mesh, fleet),
            pinned=section.pinned,
            seed=section.seed,
        )
        admission = Admission(section.max_in_flight, reason="ROUTER_BUSY")
        answers = RouterAnswers(Classifier(strategy), fleet, policy, admission, telemetry)
        answering = InferenceServicer(answers, telemetry)

        def register(server: grpc.aio.Server) -> None:
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(answering, server)
            router_pb2_grpc.add_RouterServiceServicer_to_server(
                RouterServicer(answers, fleet, policy, telemetry), server
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
        ) as server:
            yield server


async def main(mesh: Mesh) -> int:
    """Run one router process until it is told to stop; returns the exit code."""
    async with AsyncExitStack() as life:
        telemetry = life.enter_context(exporting("expertmesh-router", mesh.router.listen))
        stop = asyncio.create_task(terminated())
        opening = asyncio.create_task(life.enter_async_context(router_server(mesh, telemetry)))
        await asyncio.wait((stop, opening), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait((opening,))
            return STOPPED
        server = await opening
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
