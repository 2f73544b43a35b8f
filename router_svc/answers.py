"""How a router answers: let in, classify, select, and have the chosen replica answer into the caller's outlet."""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from expertmesh.v1.generation_pb2 import (
    GenerateRequest,
    RouteChosen,
    StageTimings,
)
from expertmesh.v1.router_pb2 import RouteResponse
from mesh_wire.admission import Admission
from mesh_wire.asked import Asked
from mesh_wire.deadlines import put_s, seconds
from mesh_wire.errors import BadInput, MeshError, NotFound, Unavailable
from mesh_wire.metrics import failure_word
from mesh_wire.open_session import Relay
from mesh_wire.outlets import Outlet
from mesh_wire.resuming import Delivered
from mesh_wire.span_failure import failure_of
from mesh_wire.telemetry import Telemetry
from mesh_wire.untraced import CLIENT, RETOLD, nothing
from router_svc import telling
from router_svc.abandoned import Abandoned
from router_svc.activity import Ledger
from router_svc.admitting.turns import Turn, Turns
from router_svc.attempts import RetryBudget, Then, Verdict, verdict
from router_svc.choosing.decision import Decision, Wish
from router_svc.choosing.explaining import UNSCORED, chosen_of, explained, labels_of
from router_svc.choosing.rules import Rulebook, Rules
from router_svc.choosing.selection import select
from router_svc.choosing.wishes import wish_of
from router_svc.classifying.classification import Classifier, Scored
from router_svc.classifying.conversation import reading_of
from router_svc.course import Course
from router_svc.hedging import Hedges, Lane, Race
from router_svc.replicas.fleet import Fleet
from router_svc.strategies.strategy import Strategy


class RouterAnswers:
    """The `Answers` of a router."""

    def __init__(
        self,
        classifier: Classifier,
        fleet: Fleet,
        rulebook: Rulebook,
        admission: Admission,
        telemetry: Telemetry,
        ledger: Ledger,
        turns: Turns,
        *,
        hedge: bool = False,
    ) -> None:
        self._turns = turns
        self._abandoned = Abandoned()
        self._budget = RetryBudget()
        self._hedges = Hedges(ledger, always=hedge)
        self._ledger = ledger
        self._classifier = classifier
        self._fleet = fleet
        self._rulebook = rulebook
        self._admission = admission
        self._telemetry = telemetry

    @property
    def strategy(self) -> Strategy:
        return self._classifier.strategy

    async def answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        self._admission.take()
        try:
            with self._turns.admitted(request, asked, outlet) as turn:
                await self._route_and_answer(request, asked, outlet, turn)
        finally:
            self._admission.release()

    async def decide(self, request: GenerateRequest, asked: Asked) -> RouteResponse:
        """Choose without asking: what `Route` answers, the ticket apart."""
        with self._admission.place():
            self._turns.check(request, asked.caller)
            rules, timings = self._rulebook.now, self._admitted(asked)
            scored = await self._classify(request, asked, timings)
            wish = wish_of(request)
            decision, chosen = self._select(asked, scored, rules, wish, timings, 1)
            response = explained(decision, chosen, scored.scores, self._fleet.roster, rules.policy, wish)
            response.timings.CopyFrom(timings)
            return response

    async def _route_and_answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet, turn: Turn) -> None:
        if request.resume.token_ids and not request.expert:
            raise BadInput("an answer goes on with the expert that began it", reason="RESUME_INVALID", field="expert")
        rules, timings = self._rulebook.now, self._admitted(asked)
        scored = await self._classify(request, asked, timings)
        self._budget.deposit()

        def first_token(expert: str) -> None:
            self._ledger.first_token(expert, time.monotonic() - asked.began)

        self._abandoned.tell_apart(request)
        course = Course(request, outlet, timings, first_token)
        wish = wish_of(request, course.excluded)  # which sees what is excluded later
        while True:
            course.attempt += 1
            try:
                asks = course.wish(wish)._replace(queued=self._turns.queued(turn))
                decision, chosen = self._select(asked, scored, rules, asks, timings, course.attempt)
                if course.attempt == 1:
                    decision, chosen = await self._in_turn(asked, turn, decision, chosen, scored, rules, wish, timings)
            except (NotFound, Unavailable) as nobody:  # what a replica said tells more than that it was the only one
                raise self._told(course.failure or nobody, outlet) from None
            request.expert = outlet.tally.expert = decision.expert
            course.next(decision, chosen)
            try:
                await self._attempt(course, request, asked, outlet, scored, rules, wish)
                turn.usage = course.ended.usage if course.ended is not None else None
                return
            except MeshError as error:
                self._abandoned.note(request.request_id, error)
                decided = verdict(error, course.standing(asked.deadline.left_s()))
                if not self._may(decided, course.decision):
                    raise self._told(decided.error, outlet) from error.__cause__
            course.goes_on(decided)
            if decided.pause_s:
                await asyncio.sleep(decided.pause_s)

    async def _in_turn(
        self,
        asked: Asked,
        turn: Turn,
        decision: Decision,
        chosen: RouteChosen,
        scored: Scored,
        rules: Rules,
        wish: Wish,
        timings: StageTimings,
    ) -> tuple[Decision, RouteChosen]:
        """Wait until it is a request's turn; whoever is to answer may be another by then."""

        def anew() -> Decision:
            now = wish._replace(chance=None, now=time.monotonic(), queued=self._turns.queued(turn))
            return select(scored.scores, self._fleet.roster, rules.policy, now)

        began = time.monotonic()
        decided = await self._turns.come(turn, decision, anew)
        if decided is decision:
            return decision, chosen
        ended = time.monotonic()
        asked.note(("route.admit", began, ended, nothing, None))
        put_s(timings.admit, seconds(timings.admit) + ended - began)
        return decided, chosen_of(decided, scored, rules, 1)

    def _may(self, decided: Verdict, decision: Decision) -> bool:
        """Whether there is another attempt; it is counted, and paid for where it costs something."""
        if decided.then is Then.END:
            return False
        instruments = self._telemetry.instruments
        labels = {"expertmesh.expert": decision.expert, "error.type": failure_word(decided.error)}
        if decided.costs and not self._budget.withdraw():
            instruments.attempts_refused.add(1, labels)
            return False
        (instruments.resumes if decided.then is Then.RESUME else instruments.second_attempts).add(1, labels)
        return True

    @staticmethod
    def _told(error: MeshError, outlet: Outlet) -> MeshError:
        """Return an error that says how much the caller has, of all attempts together."""
        if outlet.tally.tokens:
            error.facts["tokens_sent"] = str(outlet.tally.tokens)
        return error

    def _admitted(self, asked: Asked) -> StageTimings:
        now = time.monotonic()
        asked.note(("route.admit", asked.began, now, nothing, None))
        timings = StageTimings()
        put_s(timings.admit, now - asked.began)
        return timings

    async def _classify(self, request: GenerateRequest, asked: Asked, timings: StageTimings) -> Scored:
        """Return the strategy's scores; none when the caller named the expert, or nothing can be read."""
        if request.expert or not (reading := reading_of(request)):
            return UNSCORED
        began, strategy = time.monotonic(), self.strategy  # which a reload may replace before the scores are there
        about = partial(telling.classified, strategy)
        try:
            scored = await self._classifier.scored(reading)
        except BaseException as error:
            asked.note(("route.classify", began, time.monotonic(), about, failure_of(error)))
            raise
        ended = time.monotonic()
        asked.note(("route.classify", began, ended, about, None))
        put_s(timings.classify, ended - began)
        self._telemetry.instruments.classify_duration.record(ended - began, {"expertmesh.strategy": strategy.name})
        return scored

    def _select(
        self, asked: Asked, scored: Scored, rules: Rules, wish: Wish, timings: StageTimings, attempt: int
    ) -> tuple[Decision, RouteChosen]:
        """Choose, and put the choice into words."""
        began = time.monotonic()
        try:
            decision = select(scored.scores, self._fleet.roster, rules.policy, wish)
        except MeshError as error:
            asked.note(("route.select", began, time.monotonic(), nothing, failure_of(error)))
            raise
        labels = labels_of(decision)
        chosen = chosen_of(decision, scored, rules, attempt)
        self._telemetry.instruments.decisions.add(1, labels)
        self._ledger.routed(decision.expert, decision.reason)
        ended = time.monotonic()
        asked.note(("route.select", began, ended, partial(telling.selected, decision), None))
        put_s(timings.select, ended - began)
        return decision, chosen

    async def _attempt(
        self,
        course: Course,
        request: GenerateRequest,
        asked: Asked,
        outlet: Outlet,
        scored: Scored,
        rules: Rules,
        wish: Wish,
    ) -> None:
        """Ask the replica that was chosen; a second one beside it, where that is wanted and the first is late."""
        decision, chosen = course.decision, course.chosen
        late_s = None
        if course.attempt == 1 and not course.tokens:
            late_s = self._hedges.late_after_s(request, decision.expert)
        if late_s is None:
            await self._ask(decision, chosen, request, asked, outlet, course, course, course.delivered)
            return

        def ask(lane: Lane) -> Coroutine[Any, Any, None]:
            return self._ask(lane.decision, lane.chosen, request, asked, lane, course, lane, lane.delivered)

        race = Race(ask)

        def second() -> Lane | None:
            excluded = {decision.chosen.endpoint}
            other = wish._replace(pinned=decision.expert, excluded=excluded, now=time.monotonic())
            try:
                found = select(scored.scores, self._fleet.roster, rules.policy, other)
            except MeshError:  # there is no other
                return None
            if not self._hedges.one_more():
                return None
            self._telemetry.instruments.hedges.add(1, {"expertmesh.expert": decision.expert})
            return Lane(race, outlet, course, found, chosen_of(found, scored, rules, course.attempt))

        await race.run(Lane(race, outlet, course, decision, chosen), late_s, second)

    async def _ask(
        self,
        decision: Decision,
        chosen: RouteChosen,
        request: GenerateRequest,
        asked: Asked,
        outlet: Outlet,
        course: Course,
        relay: Relay,
        delivered: Delivered,
    ) -> None:
        """Have one replica answer.

        Args:
            outlet, relay, delivered: see `SessionCaller.ask`.
        """
        endpoint = decision.chosen.endpoint
        began, failure = time.monotonic(), None
        about = partial(telling.called, decision, course.attempt, course.tokens)
        asked.about = partial(telling.decided, decision, chosen)
        try:
            with asked.span.stage("expert call", CLIENT, about) as call:
                replica = self._fleet.replica(endpoint)
                await replica.ask(request, outlet, asked.deadline, asked.caller, relay, delivered, call)
        except BaseException as error:
            failure = failure_of(error)
            asked.failed |= failure.is_fault
            raise
        finally:
            if asked.span is RETOLD:
                asked.note(("expert call", began, time.monotonic(), about, failure, delivered.way, delivered.stream_id))
        if (ended := course.ended) is not None:
            usage = ended.usage  # of which only the numbers are kept: it holds the whole message that it came in
            counted = usage.prompt_tokens, usage.completion_tokens, ended.resumed
            asked.about = partial(telling.answered, course.decision, course.chosen, counted)
