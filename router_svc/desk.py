"""Decisions alone, many at a time: what `RouteSession` answers."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from expertmesh.v1.generation_pb2 import GenerateRequest
from expertmesh.v1.router_pb2 import RouteAsk, RouteSessionResponse
from mesh_wire import validation
from mesh_wire.admission import Admission
from mesh_wire.auth.callers import begins
from mesh_wire.deadlines import Deadline, seconds
from mesh_wire.errors import Busy, DeadlinePassed, Internal, MeshError, Unavailable, status_of
from mesh_wire.metrics import failure_word
from mesh_wire.telemetry import Telemetry
from mesh_wire.trace_context import caller_of
from mesh_wire.untraced import SERVER, UNTRACED, Attributes, Untraced
from router_svc.activity import Ledger
from router_svc.admitting.turns import Turns
from router_svc.choosing.decision import Decision
from router_svc.choosing.explaining import UNSCORED, chosen_of, explained, labels_of, lean
from router_svc.choosing.rules import Rulebook, Rules
from router_svc.choosing.selection import select
from router_svc.choosing.wishes import wish_of
from router_svc.classifying.classification import Classifier, Scored
from router_svc.classifying.conversation import Reading, reading_of
from router_svc.replicas.fleet import Fleet
from router_svc.replicas.places import Places

log = logging.getLogger(__name__)

NEVER, UNREAD = Deadline(), Reading("")
METHOD = "expertmesh.v1.RouterService/RouteSession"
SPAN = f"{METHOD}/ask"
ABOUT: Attributes = {"rpc.system.name": "grpc", "rpc.method": METHOD}


@dataclass(slots=True)
class _Ask:
    """One ask on its way through the desk."""

    ask: RouteAsk
    request: GenerateRequest
    reading: Reading  # what is scored; empty: nothing
    deadline: Deadline
    span: Untraced
    scored: Scored = UNSCORED
    unscored: bool = False  # the strategy failed


class Desk:
    """Decides for all exchanges of one router."""

    def __init__(
        self,
        classifier: Classifier,
        fleet: Fleet,
        rulebook: Rulebook,
        admission: Admission,
        telemetry: Telemetry,
        draining: Callable[[], bool],
        ledger: Ledger,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._ledger = ledger
        self.admission = admission
        self.telemetry = telemetry
        self._classifier = classifier
        self._fleet = fleet
        self._rulebook = rulebook
        self._draining = draining

    async def answer(self, asks: Sequence[RouteAsk], places: Places, response: RouteSessionResponse) -> None:
        """Answer asks into a response, scoring them in one batch. Those to be reserved for are given `places`."""
        taken: list[_Ask] = []
        rules = self._rulebook.now
        for ask in asks:
            span = self._span(ask)
            try:
                taken.append(self._take(ask, span))
            except MeshError as error:
                _fail(response, ask, span, error)
        await self._classify(taken)
        decisions: list[Decision] = []
        for one in taken:
            try:
                decisions.append(self._decide(one, rules, places, response))
            except MeshError as error:
                if isinstance(error, Busy):
                    self.telemetry.instruments.refused.add(1, {"error.type": failure_word(error)})
                _fail(response, one.ask, one.span, error)
        self._count(decisions)

    def _span(self, ask: RouteAsk) -> Untraced:
        if not self.telemetry.enabled:
            return UNTRACED
        return self.telemetry.begin(SPAN, SERVER, caller_of(ask.traceparent, ask.tracestate), ABOUT)

    def _take(self, ask: RouteAsk, span: Untraced) -> _Ask:
        request = ask.request
        validation.check(request)
        if ask.caller:
            validation.check_name(ask.caller, "caller")
        begins(ask.caller)
        if self._draining():
            raise Unavailable("the server is shutting down", reason="DRAINING", tokens_sent="0")
        deadline = NEVER
        if ask.HasField("timeout"):
            deadline = Deadline.after(seconds(ask.timeout))
            if deadline.passed:
                raise DeadlinePassed("the deadline had passed on arrival", reason="DEADLINE_PASSED", tokens_sent="0")
        return _Ask(ask, request, UNREAD if request.expert else reading_of(request), deadline, span)

    async def _classify(self, asked: Sequence[_Ask]) -> None:
        readable = [one for one in asked if one.reading]
        if not readable:
            return
        began = time.monotonic()
        strategy = self._classifier.strategy  # which a reload may replace before the scores are there
        try:
            rows = await self._classifier.scored_of([one.reading for one in readable])
        except Exception:  # the strategy's own; each of its prompts is told
            log.exception("%d prompts could not be scored", len(readable))
            for one in readable:
                one.unscored = True
            return
        for one, scored in zip(readable, rows, strict=True):
            one.scored = scored
        labels = {"expertmesh.strategy": strategy.name}
        ended = time.monotonic()
        self.telemetry.instruments.classify_duration.record(ended - began, labels)
        if self.telemetry.enabled:
            about = {**labels, "expertmesh.artefact": strategy.generation}
            for one in readable:
                one.span.note(("route.classify", began, ended, lambda: about, None))

    def _decide(self, one: _Ask, rules: Rules, places: Places, response: RouteSessionResponse) -> Decision:
        """Decide on one ask, into the response."""
        ask, request = one.ask, one.request
        if one.unscored:
            raise Internal("the prompt could not be scored", reason="INTERNAL", request_id=request.request_id)
        self._turns.check(request, ask.caller)
        self.admission.take()
        held = False
        try:
            wish, roster = wish_of(request, ask.excluded), self._fleet.roster
            decision = select(one.scored.scores, roster, rules.policy, wish)
            replica = self._fleet.replica(decision.chosen.endpoint)
            answer = response.answers.add(route_id=ask.route_id).decision
            attempt = 1 + len(wish.excluded)
            if ask.explain:
                chosen = chosen_of(decision, one.scored, rules, attempt)
                answer.CopyFrom(explained(decision, chosen, one.scored.scores, roster, rules.policy, wish))
            else:
                answer.endpoint = replica.endpoint
                lean(decision, one.scored, rules.generation, attempt, answer.route)
            if ticket := replica.ticket(decision.expert, one.deadline):
                answer.ticket = ticket
            if ask.reserve:
                places.hold(ask.route_id, replica, decision.expert, one.deadline.left_s())
                held = True
        finally:
            if not held:
                self.admission.release()
        if self.telemetry.enabled:
            one.span.describe(
                lambda: {
                    **labels_of(decision),
                    "expertmesh.replica": decision.chosen.replica,
                    "expertmesh.generation": rules.generation,
                }
            )
            one.span.end()
        return decision

    def _count(self, decisions: Sequence[Decision]) -> None:
        """Count decisions, those of the same labels at once: a metric's own price is that of half a decision."""
        alike: dict[tuple[str, int, str, int, str], list[Decision]] = {}
        for each in decisions:
            spilled_from = "" if each.spilled_from_s is None else each.best
            alike.setdefault((each.expert, each.reason, each.variant, each.affinity, spilled_from), []).append(each)
        for some in alike.values():
            self.telemetry.instruments.decisions.add(len(some), labels_of(some[0]))
            self._ledger.routed(some[0].expert, some[0].reason, len(some))


def _fail(response: RouteSessionResponse, ask: RouteAsk, span: Untraced, error: MeshError) -> None:
    span.fail(error)
    span.end()
    response.answers.add(route_id=ask.route_id, failure=status_of(error))
