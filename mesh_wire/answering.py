"""One request from its arrival to its end: named, traced, measured and in time, whichever way it came."""

import asyncio
import logging
import os
import time
from collections.abc import Hashable
from typing import Any, Protocol

from expertmesh.v1.generation_pb2 import GenerateRequest
from mesh_wire import validation
from mesh_wire.asked import Asked
from mesh_wire.auth.allowance import Allowances
from mesh_wire.auth.callers import begins
from mesh_wire.deadlines import Deadline
from mesh_wire.errors import AlreadyExists, DeadlinePassed, Internal, MeshError, Unavailable
from mesh_wire.long_streams import LongStreams
from mesh_wire.metrics import REFUSALS, failure_word
from mesh_wire.outlets import Outlet, Tally
from mesh_wire.resuming import name_of
from mesh_wire.telemetry import Telemetry
from mesh_wire.trace_context import Caller
from mesh_wire.untraced import RETOLD, SERVER, Attributes

log = logging.getLogger(__name__)

_Running = tuple[asyncio.Task[Any] | None, Asked, Tally]  # the task that answers a request

SERVICE = "expertmesh.v1.InferenceService"


def _traced(method: str) -> Attributes:
    return {"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/{method}", "gen_ai.operation.name": "chat"}


METHODS = {  # the name of a request's span, and its first attributes
    "Generate": (f"{SERVICE}/Generate", _traced("Generate")),
    "Session/start": (f"{SERVICE}/Session/start", _traced("Session")),
}


class Answers(Protocol):
    """How a service answers."""

    async def answer(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        """Put the whole answer into `outlet`, `finished` last.

        `request` is checked and named. Cancelled when the caller leaves; must then free all it holds.

        Raises:
            MeshError: the request ends with it.
        """


class Gate(Protocol):
    """Lets callers in, or not."""

    def session(self, ticket: str) -> bool:
        """Whether a session's ticket lets all its requests in. Raises MeshError: it may not even be opened."""

    def request(self, ticket: str, request: GenerateRequest, deadline: Deadline) -> Deadline:
        """Return a request's deadline, which its ticket may bring nearer. Raises MeshError: it may not come in."""


class Answering:
    """Has requests answered, and knows which are under way."""

    def __init__(self, answers: Answers, telemetry: Telemetry, gate: Gate | None = None) -> None:
        self.gate = gate  # None: everybody may come in
        self.draining = False  # set: new requests are refused
        self.ended = asyncio.Event()  # set whenever a request has
        self.answered = 0  # requests that have ended, one way or another
        self._answers = answers
        self._telemetry = telemetry
        self._allowances = Allowances()
        self._streams = LongStreams(telemetry.token_event_stride, self._under_way)
        self._running: dict[str, _Running] = {}  # by request id

    @property
    def running(self) -> int:
        """Requests being answered."""
        return len(self._running)

    async def answer(
        self,
        request: GenerateRequest,
        outlet: Outlet,
        deadline: Deadline,
        caller: str,
        parent: Caller,
        method: str,
        ticket: str | None = None,
    ) -> None:
        """Answer one request; every way that it can fail leaves here as a `MeshError`.

        Args:
            ticket: for the gate; None: it need not be asked.
        """
        began = time.monotonic()
        request_id = request.request_id or os.urandom(16).hex()
        instruments = self._telemetry.instruments
        outcome, failure = "CANCELLED", ""
        goes_on = bool(request.resume.token_ids)  # its caller had its first token long ago
        name, about = METHODS[method]
        asked: Asked | None = None
        instruments.in_flight.add(1)
        try:
            with self._telemetry.begin(name, SERVER, parent, about, retold=True) as span:
                # After the span's own start, which its stages must not precede.
                asked = Asked(deadline, "", span, time.monotonic())
                if span is RETOLD and parent.will_tell:
                    self._telemetry.await_word(parent.key, asked)
                validation.check(request)
                validation.check_name(caller, "caller")
                self.refuse_if_draining()
                who, caller = begins(caller)
                asked.caller = caller
                if caller:
                    span.set_attribute("expertmesh.caller", caller)
                if self.gate is not None and ticket is not None:
                    asked.deadline = self.gate.request(ticket, request, deadline)
                span.set_attribute("expertmesh.request_id", request_id)
                request.request_id = asked.request_id = request_id
                try:
                    with self._allowances.place(who):
                        await self._in_time(request, asked, outlet)
                finally:
                    self._streams.end(asked, outlet.tally)
                    span.describe(asked.about)
                    if not goes_on:
                        span.first_token(outlet.tally.first_at)
            outcome, asked.failure = "OK", None
        except MeshError as error:
            outcome, failure = error.code.name, failure_word(error)
            if asked is not None:
                asked.fails(error)
            raise
        except Exception as error:
            outcome = failure = "INTERNAL"
            if asked is not None:
                asked.fails(error)
            log.exception("request %s failed", request_id)
            raise Internal("a fault of the server", reason="INTERNAL", request_id=request_id) from None
        finally:
            instruments.in_flight.add(-1)
            self._measure(outlet, began, outcome, failure, first=not goes_on)
            if asked is not None and asked.span is RETOLD and (tail := self._telemetry.tail) is not None:
                asked.end(tail, parent, name, about, began, None if goes_on else outlet.tally.first_at)

    def _under_way(self) -> list[tuple[Asked, Tally]]:
        return [(asked, tally) for _, asked, tally in self._running.values()]

    def keep_trace(self, key: Hashable, traceparent: str) -> None:
        """Keep a trace that the sampler left out: its caller says so."""
        self._telemetry.keep(key, traceparent)

    def refuse_if_draining(self) -> None:
        """Raises Unavailable DRAINING when it is so."""
        if self.draining:
            raise Unavailable("the server is shutting down", reason="DRAINING", tokens_sent="0")

    async def _in_time(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        """Answer within the deadline."""
        left_s = asked.deadline.left_s()
        if left_s is None:
            await self._named(request, asked, outlet)
            return
        if left_s <= 0:
            raise DeadlinePassed("the deadline had passed on arrival", reason="DEADLINE_PASSED", tokens_sent="0")
        limit = asyncio.timeout(left_s)
        try:
            async with limit:
                await self._named(request, asked, outlet)
        except TimeoutError:
            if not limit.expired():  # somebody else's
                raise
            raise DeadlinePassed(
                "the answer was not complete in time", reason="DEADLINE_PASSED", tokens_sent=str(outlet.tally.tokens)
            ) from None
        finally:
            # It knows our task, and a task that was cancelled knows this frame, by the traceback of its end: all that
            # a request had would stay until the garbage collector comes, which is seldom.
            del limit

    async def _named(self, request: GenerateRequest, asked: Asked, outlet: Outlet) -> None:
        """Answer, and hold the request's name meanwhile.

        A caller that hangs up and asks again may overtake its own cancellation, so a holder that is on its way out is
        waited for.
        """
        name = name_of(request)
        while name in self._running:
            holder, _, _ = self._running[name]
            if holder is None or not holder.cancelling():
                raise AlreadyExists(
                    "a request of that id is being answered", reason="REQUEST_ID_IN_USE", field="request_id"
                )
            await asyncio.wait((holder,))
        self._running[name] = asyncio.current_task(), asked, outlet.tally
        if self._streams.asleep and asked.span.is_recording():
            self._streams.wake()
        try:
            await self._answers.answer(request, asked, outlet)
        finally:
            del self._running[name]
            self.answered += 1
            self.ended.set()

    def _measure(self, outlet: Outlet, began: float, outcome: str, failure: str, *, first: bool) -> None:
        tally, instruments = outlet.tally, self._telemetry.instruments
        expert = {"expertmesh.expert": tally.expert} if tally.expert else {}
        labels = {"gen_ai.operation.name": "chat", "rpc.response.status_code": outcome}
        if tally.expert:
            labels["gen_ai.request.model"] = tally.expert
        failed = labels | {"error.type": failure} if failure else labels
        instruments.request_duration.record(time.monotonic() - began, failed)
        if tally.tokens:
            instruments.tokens.add(tally.tokens, expert)
        if failure in REFUSALS:
            instruments.refused.add(1, {"error.type": failure} | expert)
        if tally.first_at is not None and tally.ended_at is not None:
            if first:
                instruments.time_to_first_token.record(tally.first_at - began, labels)
            if tally.tokens > 1:
                instruments.time_per_output_token.record((tally.ended_at - tally.first_at) / (tally.tokens - 1), labels)
