"""How a router answers: let in, classify, select, and have the chosen replica answer into the caller's outlet."""

import time

from opentelemetry.trace import SpanKind

from expertmesh.v1.generation_pb2 import (
    Finished,
    GenerateRequest,
    RouteChosen,
    StageTimings,
)
from expertmesh.v1.router_pb2 import RouteResponse
from mesh_wire import inference
from mesh_wire.admission import Admission
from mesh_wire.deadlines import duration, seconds
from mesh_wire.errors import Busy, MeshError, Unavailable
from mesh_wire.inference import Asked
from mesh_wire.outlets import Outlet
from mesh_wire.telemetry import Telemetry, epoch_offset_ns
from router_svc.choosing.explaining import UNSCORED, chosen_of, explained, labels_of
from router_svc.choosing.rules import Rulebook, Rules
from router_svc.choosing.selection import Decision, Wish, select
from router_svc.choosing.wishes import wish_of
from router_svc.classifying.classification import Classifier, Scored
from router_svc.classifying.conversation import reading_of
from router_svc.replicas.fleet import Fleet
from router_svc.strategies.strategy import Strategy

ATTEMPTS = 2


class RouterAnswers:
    """The `Answers` of a router."""

    def __init__(
        self, classifier: Classifier, fleet: Fleet, rulebook: Rulebook, admission: Admission, telemetry: Telemetry
    ) -> None:
        self._classifier = classifier
        self._fleet = fleet
        self._rulebook = rulebook
        self._admission = admission
        self._telemetry = telemetry

    @property
    def strategy(self) -> Strategy:
        return self._classifier.strategy

    async def answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        try:
            with self._admission.place():
                await self._route_and_answer(request, asked, outlet)
        except Busy as error:
            if error.reason == "ROUTER_BUSY":
                self._telemetry.instruments.refused.add(1)
            raise

    async def decide(self, request: GenerateRequest, asked: Asked) -> RouteResponse:
        """Choose without asking: what `Route` answers, the ticket apart."""
        with self._admission.place():
            rules, timings = self._rulebook.now, self._admitted(asked)
            scored = await self._classify(request, timings)
            wish = wish_of(request)
            decision, chosen = self._select(scored, rules, wish, timings, 1)
            response = explained(decision, chosen, scored.scores, self._fleet.roster, rules.policy, wish)
            response.timings.CopyFrom(timings)
            return response

    async def _route_and_answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        rules, timings = self._rulebook.now, self._admitted(asked)
        scored = await self._classify(request, timings)
        excluded: set[str] = set()
        wish = wish_of(request, excluded)  # which sees what is excluded later
        failure: MeshError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                decision, chosen = self._select(scored, rules, wish, timings, attempt)
            except Unavailable as nobody:  # else: what the first replica said tells more than that it was the only one
                raise failure or nobody from None
            request.expert = decision.expert
            relay = _Relay(outlet, chosen, timings)
            try:
                await self._ask(decision, request, asked, outlet, relay)
                return
            except MeshError as error:
                if attempt == ATTEMPTS or relay.begun or not self._worth_another(error, decision, excluded):
                    raise
                failure = error

    def _worth_another(self, error: MeshError, decision: Decision, excluded: set[str]) -> bool:
        """Whether somebody else may do better; if so, the replica that failed is out for this request.

        A busy expert is worth trying on its other replicas only; one that is gone, on whoever would answer then.
        """
        excluded.add(decision.chosen.endpoint)
        if error.code is Busy.code:
            return decision.more
        return error.code is Unavailable.code

    def _admitted(self, asked: Asked) -> StageTimings:
        if self._telemetry.enabled:
            began_ns = int(asked.began * 1e9) + epoch_offset_ns()
            self._telemetry.past_span("route.admit", began_ns, time.time_ns())
        return StageTimings(admit=duration(time.monotonic() - asked.began))

    async def _classify(self, request: GenerateRequest, timings: StageTimings) -> Scored:
        """Return the strategy's scores; none when the caller named the expert, or nothing can be read."""
        if request.expert or not (reading := reading_of(request)):
            return UNSCORED
        began, strategy = time.monotonic(), self.strategy  # which a reload may replace before the scores are there
        with self._telemetry.span(
            "route.classify",
            attributes={"expertmesh.strategy": strategy.name, "expertmesh.artefact": strategy.generation},
        ):
            scored = await self._classifier.scored(reading)
            took_s = time.monotonic() - began
            timings.classify.CopyFrom(duration(took_s))
            self._telemetry.instruments.classify_duration.record(took_s, {"expertmesh.strategy": strategy.name})
        return scored

    def _select(
        self, scored: Scored, rules: Rules, wish: Wish, timings: StageTimings, attempt: int
    ) -> tuple[Decision, RouteChosen]:
        """Choose, and put the choice into words."""
        began = time.monotonic()
        with self._telemetry.span("route.select") as span:
            decision = select(scored.scores, self._fleet.roster, rules.policy, wish)
            labels = labels_of(decision)
            if span.is_recording():
                span.set_attributes({**labels, "expertmesh.replica": decision.chosen.replica})
            chosen = chosen_of(decision, scored, rules, attempt)
            self._telemetry.instruments.decisions.add(1, labels)
            timings.select.CopyFrom(duration(time.monotonic() - began))
        return decision, chosen

    async def _ask(
        self, decision: Decision, request: GenerateRequest, asked: Asked, outlet: Outlet, relay: "_Relay"
    ) -> None:
        endpoint = decision.chosen.endpoint
        host, _, port = endpoint.rpartition(":")
        with self._telemetry.span(
            "expert call",
            SpanKind.CLIENT,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": f"{inference.SERVICE}/Session",
                "server.address": host,
                "server.port": int(port),
                "expertmesh.expert": decision.expert,
                "expertmesh.replica": decision.chosen.replica,
            },
        ) as span:
            if asked.span.is_recording():
                asked.span.set_attributes(_attributes(decision, relay.chosen))
            await self._fleet.replica(endpoint).ask(request, outlet, asked.deadline, asked.caller, relay)
            span.set_attribute("rpc.response.status_code", "OK")
            if (ended := relay.ended) is not None and asked.span.is_recording():
                asked.span.set_attributes(
                    {
                        "gen_ai.usage.input_tokens": ended.usage.prompt_tokens,
                        "gen_ai.usage.output_tokens": ended.usage.completion_tokens,
                    }
                )


class _Relay:
    """What a router adds to an answer: the route before its first event, its own stages in its last."""

    def __init__(self, outlet: Outlet, chosen: RouteChosen, timings: StageTimings) -> None:
        self.chosen = chosen
        self.begun = False
        self.ended: Finished | None = None
        self._outlet = outlet
        self._timings = timings
        self._sent_at = time.monotonic()
        self._first_at = self._sent_at

    def begin(self) -> None:
        self.begun = True
        self._first_at = time.monotonic()
        self._outlet.route(self.chosen)

    def end(self, finished: Finished) -> None:
        timings = finished.timings
        at_expert_s = seconds(timings.queue) + seconds(timings.prefill)
        forward_s = max(0.0, self._first_at - self._sent_at - at_expert_s)
        timings.MergeFrom(self._timings)
        timings.forward.CopyFrom(duration(forward_s))
        self.ended = finished


def _attributes(decision: Decision, chosen: RouteChosen) -> dict[str, str | float | int]:
    return {
        **labels_of(decision),
        "gen_ai.request.model": chosen.expert,
        "expertmesh.replica": chosen.replica,
        "expertmesh.score": chosen.score,
        "expertmesh.strategy": chosen.strategy,
        "expertmesh.generation": chosen.generation,
        "expertmesh.attempt": chosen.attempt,
    }
