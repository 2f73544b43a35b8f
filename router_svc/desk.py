"""Decisions alone, many at a time: what `RouteSession` answers."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random as drawn

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from expertmesh.v1.generation_pb2 import RouteChosen
from expertmesh.v1.router_pb2 import RouteAnswer, RouteAsk, RouteResponse
from mesh_wire import validation
from mesh_wire.admission import Admission
from mesh_wire.deadlines import Deadline, seconds
from mesh_wire.errors import Busy, DeadlinePassed, Internal, MeshError, Unavailable, status_of
from mesh_wire.telemetry import Telemetry, fail, parent_of
from mesh_wire.words import reason_word
from router_svc.classification import Classifier, text_of
from router_svc.explaining import chosen_of, explained
from router_svc.fleet import Fleet
from router_svc.places import Places
from router_svc.selection import Decision, Policy, Roster, select

log = logging.getLogger(__name__)

METHOD = "expertmesh.v1.RouterService/RouteSession"


@dataclass(slots=True)
class _Ask:
    """One ask on its way through the desk."""

    ask: RouteAsk
    text: str  # what is scored; empty: nothing
    deadline: Deadline
    span: Span
    scores: dict[str, float] = field(default_factory=dict)
    unscored: bool = False  # the strategy failed


class Desk:
    """Decides for all exchanges of one router."""

    def __init__(
        self,
        classifier: Classifier,
        fleet: Fleet,
        policy: Policy,
        admission: Admission,
        telemetry: Telemetry,
        draining: Callable[[], bool],
    ) -> None:
        self.admission = admission
        self.telemetry = telemetry
        self._classifier = classifier
        self._fleet = fleet
        self._policy = policy
        self._draining = draining

    async def answer(self, asks: Sequence[RouteAsk], places: Places) -> list[RouteAnswer]:
        """Answer asks, scoring them in one batch. Those to be reserved for are given `places`."""
        answers: list[RouteAnswer] = []
        taken: list[_Ask] = []
        for ask in asks:
            span = self._span(ask)
            try:
                taken.append(self._take(ask, span))
            except MeshError as error:
                answers.append(_failed(ask, span, error))
        await self._classify(taken)
        roster = Roster(self._fleet.candidates)
        for one in taken:
            try:
                answers.append(self._decide(one, roster, places))
            except MeshError as error:
                if isinstance(error, Busy):
                    self.telemetry.instruments.refused.add(1)
                answers.append(_failed(one.ask, one.span, error))
        return answers

    def _span(self, ask: RouteAsk) -> Span:
        if not self.telemetry.enabled:
            return trace.INVALID_SPAN
        attributes = {"rpc.system.name": "grpc", "rpc.method": METHOD}
        parent = parent_of(ask.traceparent, ask.tracestate)
        return self.telemetry.tracer.start_span(f"{METHOD}/ask", parent, SpanKind.SERVER, attributes)

    def _take(self, ask: RouteAsk, span: Span) -> _Ask:
        request = ask.request
        validation.check(request)
        if ask.caller:
            validation.check_name(ask.caller, "caller")
        if self._draining():
            raise Unavailable("the server is shutting down", reason="DRAINING", tokens_sent="0")
        deadline = Deadline.after(seconds(ask.timeout)) if ask.HasField("timeout") else Deadline()
        if deadline.passed:
            raise DeadlinePassed("the deadline had passed on arrival", reason="DEADLINE_PASSED", tokens_sent="0")
        return _Ask(ask, "" if request.expert else text_of(request), deadline, span)

    async def _classify(self, asked: Sequence[_Ask]) -> None:
        readable = [one for one in asked if one.text]
        if not readable:
            return
        began, began_ns = time.monotonic(), time.time_ns()
        try:
            rows = await self._classifier.scores_of([one.text for one in readable])
        except Exception:  # the strategy's own; each of its prompts is told
            log.exception("%d prompts could not be scored", len(readable))
            for one in readable:
                one.unscored = True
            return
        for one, scores in zip(readable, rows, strict=True):
            one.scores = scores
        strategy = self._classifier.strategy
        labels = {"expertmesh.strategy": strategy.name}
        self.telemetry.instruments.classify_duration.record(time.monotonic() - began, labels)
        if self.telemetry.enabled:
            ended_ns = time.time_ns()
            labels["expertmesh.artefact"] = strategy.generation
            for one in readable:
                with trace.use_span(one.span):
                    self.telemetry.past_span("route.classify", began_ns, ended_ns, labels)

    def _decide(self, one: _Ask, roster: Roster, places: Places) -> RouteAnswer:
        ask = one.ask
        if one.unscored:
            request_id = ask.request.request_id
            raise Internal("the prompt could not be scored", reason="INTERNAL", request_id=request_id)
        self.admission.take()
        held = False
        try:
            decision = select(
                one.scores,
                roster,
                self._policy,
                pinned=ask.request.expert,
                excluded=ask.excluded,
                chance=drawn(),  # noqa: S311  # to spread load, not to keep a secret
            )
            if ask.reserve:
                replica = self._fleet.replica(decision.chosen.endpoint)
                places.hold(ask.route_id, replica, decision.expert, one.deadline.left_s())
                roster.replace(replica.candidate)
                held = True
        finally:
            if not held:
                self.admission.release()
        self._note(one, decision)
        return RouteAnswer(route_id=ask.route_id, decision=self._response(one, decision))

    def _response(self, one: _Ask, decision: Decision) -> RouteResponse:
        strategy = self._classifier.strategy
        attempt = 1 + len(one.ask.excluded)
        ticket = self._fleet.replica(decision.chosen.endpoint).ticket(decision.expert, one.deadline)
        if one.ask.explain:
            chosen = chosen_of(decision, one.scores, strategy, attempt)
            response = explained(decision, chosen, one.scores, self._policy)
            response.ticket = ticket
            return response
        chosen = RouteChosen(
            expert=decision.expert,
            replica=decision.chosen.replica,
            score=decision.score,
            strategy=strategy.name if one.scores else "",
            reason=decision.reason,
            attempt=attempt,
        )
        return RouteResponse(route=chosen, endpoint=decision.chosen.endpoint, ticket=ticket)

    def _note(self, one: _Ask, decision: Decision) -> None:
        reason = reason_word(decision.reason)
        labels = {"expertmesh.expert": decision.expert, "expertmesh.reason": reason}
        self.telemetry.instruments.decisions.add(1, labels)
        if self.telemetry.enabled:
            one.span.set_attributes({**labels, "expertmesh.replica": decision.chosen.replica})
            one.span.set_attribute("rpc.response.status_code", "OK")
            one.span.end()


def _failed(ask: RouteAsk, span: Span, error: MeshError) -> RouteAnswer:
    if span.is_recording():
        fail(span, error)
        span.end()
    return RouteAnswer(route_id=ask.route_id, failure=status_of(error))
