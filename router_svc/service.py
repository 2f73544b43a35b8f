"""One router process put together: strategy, fleet, answers, server."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from math import ceil

import grpc

from expertmesh.v1 import inference_pb2_grpc, router_pb2_grpc
from expertmesh.v1.router_pb2 import (
    Drift,
    ListExpertsRequest,
    ListExpertsResponse,
    RouteRequest,
    RouteResponse,
    RouteSessionRequest,
    RouteSessionResponse,
    Unreachable,
)
from mesh_wire import inference, validation
from mesh_wire.admission import Admission
from mesh_wire.asked import Asked
from mesh_wire.auth.access import peer_headers, router_guard
from mesh_wire.deadlines import Deadline
from mesh_wire.inference import InferenceServicer
from mesh_wire.process import STOPPED, settle, terminated
from mesh_wire.prometheus import address_of
from mesh_wire.serving import Serving, serving_by
from mesh_wire.settings import Mesh
from mesh_wire.telemetry import Telemetry, exporting
from mesh_wire.ticket_keys import keys_of
from mesh_wire.tickets import TicketOffice
from mesh_wire.trace_context import caller_of
from mesh_wire.untraced import SERVER
from router_svc.activity import Ledger
from router_svc.admitting.turns import Turns
from router_svc.admitting.watching import observe_queue, waits_of
from router_svc.answers import RouterAnswers
from router_svc.choosing.rules import Rulebook
from router_svc.classifying.classification import Classifier, Scored
from router_svc.classifying.drift import Profile
from router_svc.classifying.drift_sketch import Drifting
from router_svc.classifying.faring import Faring
from router_svc.desk import Desk
from router_svc.listing import Listing
from router_svc.measuring import observe_fleet
from router_svc.reloading.files import stamps
from router_svc.reloading.loading import corpus_of, latest
from router_svc.reloading.plan import experts_of, policy_of
from router_svc.reloading.reload import Reloader
from router_svc.reloading.source import Source, Stamps
from router_svc.replicas.fleet import Fleet, open_fleet
from router_svc.replicas.stalls import StallWatch
from router_svc.route_exchange import RouteExchange
from router_svc.strategies.opening import open_strategy
from router_svc.tending import kept_up, tell_health

log = logging.getLogger(__name__)

SERVICE = "expertmesh.v1.RouterService"


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """Speaks `RouterService` for one router."""

    def __init__(
        self,
        answers: RouterAnswers,
        fleet: Fleet,
        rulebook: Rulebook,
        telemetry: Telemetry,
        desk: Desk,
        faring: Faring,
        drifting: Drifting,
        reloader: Reloader | None,
        listing: Listing,
    ) -> None:
        self._listing = listing
        self._answers = answers
        self._desk = desk
        self._drifting = drifting
        self._faring = faring
        self._fleet = fleet
        self._reloader = reloader
        self._rulebook = rulebook
        self._telemetry = telemetry

    async def Route(
        self, request: RouteRequest, context: grpc.aio.ServicerContext[RouteRequest, RouteResponse]
    ) -> RouteResponse:
        headers = inference.headers_of(context)
        with (
            self._telemetry.instruments.call(f"{SERVICE}/Route"),
            self._telemetry.begin(
                f"{SERVICE}/Route",
                SERVER,
                caller_of(headers.get("traceparent", ""), headers.get("tracestate", "")),
                {"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/Route"},
            ) as span,
        ):
            validation.check(request.request)
            asked = Asked(Deadline.after(context.time_remaining()), "", span, time.monotonic())
            response = await self._answers.decide(request.request, asked)
        response.ticket = self._fleet.replica(response.endpoint).ticket(response.route.expert, asked.deadline)
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
        drift = self._drifting.compared()
        return ListExpertsResponse(
            experts=self._listing.experts(),
            process=self._listing.process(),
            generalist=self._rulebook.now.policy.generalist,
            strategy=self._answers.strategy.name,
            artefact=self._answers.strategy.generation,
            unreachable=[
                Unreachable(endpoint=endpoint, reason=reason)
                for endpoint, reason in sorted(self._fleet.unreachable.items())
            ],
            generation=self._rulebook.now.generation,
            not_taken=self._reloader.problems if self._reloader else (),
            left_for_restart=self._reloader.left if self._reloader else (),
            strategy_trouble=self._faring.trouble,
            drift=Drift(verdict=drift.verdict, index=drift.index, prompts=drift.prompts),
        )


@asynccontextmanager
async def router_server(
    mesh: Mesh, telemetry: Telemetry, source: Source | None = None, worker: int = 0
) -> AsyncIterator[Serving]:
    """Route and serve until the block ends. Ready once every configured expert has been tried.

    Args:
        source: the file that says so, to be watched for changes; None: nothing changes.
        worker: its number among those that share the port; 0 where it is alone.

    Raises:
        ArtefactError: the strategy's artefact cannot be used.
    """
    began: Stamps = {}
    if source is not None:
        mesh, stamp = latest(source, mesh)
        began = {**stamps(source.path, mesh.router.artefact), source.path: stamp}
    section = mesh.router
    rulebook = Rulebook(policy_of(section))
    keys = keys_of(mesh.tickets)
    office = TicketOffice(keys, mesh.tickets.lifetime_s) if keys else None
    guard, shown = router_guard(mesh, telemetry), peer_headers(mesh.peers)
    async with open_fleet(mesh.targets, section.expert_tls, office, shown) as fleet:
        await fleet.looked()
        strategy = open_strategy(
            section.strategy,
            artefact=section.artefact,
            experts=experts_of(mesh, fleet.experts),
            pinned=section.pinned,
            seed=section.seed,
            examples=section.examples,
        )
        admission = Admission(ceil(section.max_in_flight / section.workers), reason="ROUTER_BUSY")
        faring, drifting = Faring(), Drifting(corpus_of(section))

        def heard(scored: Scored) -> None:
            faring.note(scored)
            drifting.note(scored)

        def swapped(corpus: Profile | None) -> None:
            faring.begin_again()
            drifting.begin_again(corpus)

        budget_s = section.classify_budget_ms / 1e3
        classifier = Classifier(strategy, budget_s=budget_s, telemetry=telemetry, heard=heard)
        telemetry.observe("expertmesh.generation", "Served by: 1 at the start", lambda: rulebook.now.generation)
        telemetry.observe(
            "expertmesh.route.drift",
            "Stability index: traffic beside the fitting data",
            lambda: drifting.compared().index,
        )
        reloader = None
        if source is not None:
            reloader = Reloader(
                source,
                mesh,
                began,
                classifier=classifier,
                fleet=fleet,
                rulebook=rulebook,
                telemetry=telemetry,
                swapped=swapped,
            )
        ledger = Ledger()
        turns = Turns(fleet, section.admission, workers=section.workers, waited=waits_of(telemetry))
        observe_queue(telemetry, turns)
        answers = RouterAnswers(classifier, fleet, rulebook, admission, telemetry, ledger, turns, hedge=section.hedge)
        answering = InferenceServicer(answers, telemetry)
        listing = Listing(fleet, ledger, admission, worker, section.workers)
        observe_fleet(telemetry, fleet)
        desk = Desk(classifier, fleet, rulebook, admission, telemetry, lambda: answering.draining, ledger, turns)

        def register(server: grpc.aio.Server) -> None:
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(answering, server)
            router_pb2_grpc.add_RouterServiceServicer_to_server(
                RouterServicer(answers, fleet, rulebook, telemetry, desk, faring, drifting, reloader, listing), server
            )

        async with (
            aclosing(classifier),
            serving_by(
                section,
                register,
                [inference.SERVICE, SERVICE],
                telemetry=telemetry,
                drain=answering.drain,
                shares_port=section.workers > 1,
                guard=guard,
            ) as server,
            kept_up(
                tell_health(server, faring, reloader),
                StallWatch(lambda: fleet.replicas, section.stall_s).run(),
                *([reloader.run()] if reloader else []),
            ),
        ):
            yield server


async def main(
    mesh: Mesh, worker: int = 0, ready: Callable[[], None] = lambda: None, *, source: Source | None = None
) -> int:
    """Run one router process until it is told to stop; returns the exit code.

    Args:
        worker: its number among those that share the port; 0 where it is alone.
        ready: called once it serves.
        source: see `router_server`.
    """
    async with AsyncExitStack() as life:
        instance = f"{mesh.router.listen} worker {worker}" if worker else mesh.router.listen
        metrics_at = address_of(mesh.router, worker)
        telemetry = life.enter_context(exporting("expertmesh-router", instance, metrics_at=metrics_at))
        stop = asyncio.create_task(terminated())
        opening = asyncio.create_task(life.enter_async_context(router_server(mesh, telemetry, source, worker)))
        await asyncio.wait((stop, opening), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait((opening,))
            return STOPPED
        server = await opening
        settle()
        log.info("the router serves on port %d", server.port)
        ready()
        await stop
        log.info("the router drains after %s", stop.result().name)
    log.info("the router has stopped")
    return STOPPED
