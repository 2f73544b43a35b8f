"""How a router answers: let in, classify, select, and have the chosen replica answer into the caller's outlet."""

import time
from collections.abc import Collection
from random import random as drawn

from opentelemetry.trace import SpanKind

from expertmesh.v1.generation_pb2 import (
    Finished,
    GenerateRequest,
    RouteChosen,
    StageTimings,
)
from mesh_wire import inference
from mesh_wire.admission import Admission
from mesh_wire.deadlines import duration, seconds
from mesh_wire.errors import Busy, MeshError, Unavailable
from mesh_wire.inference import Asked
from mesh_wire.outlets import Outlet
from mesh_wire.telemetry import Telemetry, epoch_offset_ns
from mesh_wire.words import reason_word
from router_svc.classification import Classifier, text_of
from router_svc.explaining import chosen_of
from router_svc.fleet import Fleet
from router_svc.selection import Decision, Policy, select
from router_svc.strategy import Strategy

ATTEMPTS = 2


class RouterAnswers:
    """The `Answers` of a router."""

    def __init__(
        self, classifier: Classifier, fleet: Fleet, policy: Policy, admission: Admission, telemetry: Telemetry
    ) -> None:
        self._classifier = classifier
        self._fleet = fleet
        self._policy = policy
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

    async def decide(
        self, request: GenerateRequest, asked: Asked
    ) -> tuple[Decision, RouteChosen, dict[str, float], StageTimings]:
        """Choose without asking: what `Route` answers."""
        with self._admission.place():
            timings = self._admitted(asked)
            scores = await self._classify(request, timings)
            decision = self._select(request.expert, scores, timings)
            return decision, self._chosen(decision, scores, 1), scores, timings

    async def _route_and_answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        timings = self._admitted(asked)
        pinned = request.expert
        scores = await self._classify(request, timings)
        excluded: set[str] = set()
        failure: MeshError | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                decision = self._select(pinned, scores, timings, excluded)
            except Unavailable as nobody:  # else: what the first replica said tells more than that it was the only one
                raise failure or nobody from None
            chosen = self._chosen(decision, scores, attempt)
            asked.span.set_attributes(_attributes(chosen))
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
            return len(decision.weighed) > 1
        return error.code is Unavailable.code

    def _admitted(self, asked: Asked) -> StageTimings:
        if self._telemetry.enabled:
            began_ns = int(asked.began * 1e9) + epoch_offset_ns()
            self._telemetry.past_span("route.admit", began_ns, time.time_ns())
        return StageTimings(admit=duration(time.monotonic() - asked.began))

    async def _classify(self, request: GenerateRequest, timings: StageTimings) -> dict[str, float]:
        """Return the strategy's scores; none when the caller named the expert, or nothing can be read."""
        text = "" if request.expert else text_of(request)
        if not text:
            return {}
        began = time.monotonic()
        with self._telemetry.span(
            "route.classify",
            attributes={"expertmesh.strategy": self.strategy.name, "expertmesh.artefact": self.strategy.generation},
        ):
            scores = await self._classifier.scores(text)
        took_s = time.monotonic() - began
        timings.classify.CopyFrom(duration(took_s))
        self._telemetry.instruments.classify_duration.record(took_s, {"expertmesh.strategy": self.strategy.name})
        return scores

    def _select(
        self, pinned: str, scores: dict[str, float], timings: StageTimings, excluded: Collection[str] = ()
    ) -> Decision:
        began = time.monotonic()
        with self._telemetry.span("route.select") as span:
            chance = drawn()  # noqa: S311  # to spread load, not to keep a secret
            candidates = self._fleet.candidates
            decision = select(scores, candidates, self._policy, pinned=pinned, excluded=excluded, chance=chance)
            span.set_attributes(
                {
                    "expertmesh.expert": decision.expert,
                    "expertmesh.replica": decision.chosen.replica,
                    "expertmesh.reason": reason_word(decision.reason),
                }
            )
        timings.select.CopyFrom(duration(time.monotonic() - began))
        self._telemetry.instruments.decisions.add(
            1, {"expertmesh.expert": decision.expert, "expertmesh.reason": reason_word(decision.reason)}
        )
        return decision

    def _chosen(self, decision: Decision, scores: dict[str, float], attempt: int) -> RouteChosen:
        return chosen_of(decision, scores, self.strategy, attempt)

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
            await self._fleet.replica(endpoint).ask(request, outlet, asked.deadline, asked.caller, relay)
            span.set_attribute("rpc.response.status_code", "OK")
        if (ended := relay.ended) is not None:
            asked.span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": ended.usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": ended.usage.completion_tokens,
                }
            )


class _Relay:
    """What a router adds to an answer: the route before its first event, its own stages in its last."""

    def __init__(self, outlet: Outlet, chosen: RouteChosen, timings: StageTimings) -> None:
        self.begun = False
        self.ended: Finished | None = None
        self._outlet = outlet
        self._chosen = chosen
        self._timings = timings
        self._sent_at = time.monotonic()
        self._first_at = self._sent_at

    def begin(self) -> None:
        self.begun = True
        self._first_at = time.monotonic()
        self._outlet.route(self._chosen)

    def end(self, finished: Finished) -> None:
        timings = finished.timings
        at_expert_s = seconds(timings.queue) + seconds(timings.prefill)
        forward_s = max(0.0, self._first_at - self._sent_at - at_expert_s)
        timings.MergeFrom(self._timings)
        timings.forward.CopyFrom(duration(forward_s))
        self.ended = finished


def _attributes(chosen: RouteChosen) -> dict[str, str | float | int]:
    return {
        "gen_ai.request.model": chosen.expert,
        "expertmesh.expert": chosen.expert,
        "expertmesh.replica": chosen.replica,
        "expertmesh.reason": reason_word(chosen.reason),
        "expertmesh.score": chosen.score,
        "expertmesh.strategy": chosen.strategy,
        "expertmesh.attempt": chosen.attempt,
    }
